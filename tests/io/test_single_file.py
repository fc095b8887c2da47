"""Whole models in one file: names, round trips, and what is passed over."""

import gzip
import json

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file

from draftx import load, save
from draftx.io.original import KINDS, places
from draftx.models import CLIPTextConfig, CLIPTextModel

from .single_files import write_arrays
from .test_manifests import FOLDER, skeleton
from .tiny import assert_equal, cast


EMA = "model_ema.decay"
GOLDEN = json.loads(gzip.decompress((FOLDER / "original_names.json.gz").read_bytes()))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_names_are_those_that_diffusers_converts(part):
    found = places(skeleton(part), is_open_clip=False)
    assert {key: place.key for key, place in found.items()} == GOLDEN[part]
    assert all(place.third is None for place in found.values())


def test_names_of_open_clip_are_those_that_diffusers_converts():
    config = CLIPTextConfig.from_dict(KINDS["v2"].text_encoder)
    model = eqx.filter_eval_shape(CLIPTextModel, config, key=jr.key(0))
    found = places(model, is_open_clip=True)
    assert {key: [*place] for key, place in found.items()} == GOLDEN["open_clip"]


def test_a_file_goes_there_and_back(kept):
    pipeline, folder, file = kept
    assert_equal(load(file, config=folder), pipeline)
    names = load_file(file)
    is_open_clip = pipeline.text_encoder.config.hidden_act == "gelu"
    assert any(key.endswith("attn.in_proj_weight") for key in names) == is_open_clip
    assert any(".self_attn.q_proj." in key for key in names) != is_open_clip
    # The autoencoder's attention is made of convolutions there.
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    assert names[key].shape[2:] == (1, 1)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_stored_is_the_dtype_of_the_file(pipeline, v1, tmp_path, dtype):
    half = cast(pipeline, dtype)
    save(half, tmp_path / "half.safetensors")
    assert_equal(
        load(tmp_path / "half.safetensors", dtype="stored", config=v1[1]), half
    )
    assert_equal(
        load(tmp_path / "half.safetensors", config=v1[1]), cast(half, "float32")
    )


def test_a_file_that_is_there_is_not_replaced(pipeline, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="`folder` must not exist if it names a file"):
        save(pipeline, path)
    assert path.read_bytes() == b"mine"


def test_old_names_of_the_text_encoder(pipeline, v1, tmp_path):
    arrays, folder = v1
    old = {key.replace(".text_model.", "."): array for key, array in arrays.items()}
    assert old.keys() != arrays.keys()
    assert_equal(
        load(write_arrays(tmp_path / "x.safetensors", old), config=folder), pipeline
    )


def test_what_training_left_is_passed_over(kept, tmp_path):
    pipeline, folder, file = kept
    arrays = load_file(file)
    one = np.ones(3, np.float32)
    text = "cond_stage_model.transformer.text_model"
    extra = [EMA, "model_ema.diffusion_modelout2weight", "betas", "alphas_cumprod"]
    extra += ["posterior_variance", "logvar", "first_stage_model.loss.logvar"]
    extra += ["first_stage_model.model_ema.decay"]
    if pipeline.text_encoder.config.hidden_act == "gelu":
        text = "cond_stage_model.model"
        extra += [
            f"{text}.{k}" for k in ("logit_scale", "text_projection", "attn_mask")
        ]
        extra += [f"{text}.transformer.resblocks.23.ln_1.weight"]
    arrays |= dict.fromkeys(extra, one)
    arrays[f"{text}.embeddings.position_ids"] = np.arange(9)[None]
    loaded = load(write_arrays(tmp_path / "x.safetensors", arrays), config=folder)
    assert_equal(loaded, pipeline)
