"""Weights of a variant: named where they are alone, read where they are asked for."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load
from draftx.io import load_component, ModelFileError
from draftx.models import UNet2DConditionModel

from .tiny import assert_equal


STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


def _path(folder, part, variant=""):
    return folder / part / f"{STEMS[part]}{variant}.safetensors"


def _add(folder, part, variant="bf16", *, keep=False):
    """Writes weights of a variant, which are half the others, beside or instead."""
    path = _path(folder, part)
    arrays = {k: (v / 2).astype(jnp.bfloat16) for k, v in load_file(path).items()}
    save_file(arrays, _path(folder, part, f".{variant}"))
    if not keep:
        path.unlink()
    return arrays


def _half(model):
    halve = lambda x: (np.asarray(x) / 2).astype(jnp.bfloat16).astype(np.float32)
    return jax.tree.map(lambda x: jax.device_put(halve(x)), model)


def _shard(folder, arrays, index, shard):
    """Writes the weights of a UNet as two shards with these names."""
    keys = sorted(arrays)
    parts = {shard.format(i + 1): keys[i::2] for i in range(2)}
    for name, names in parts.items():
        save_file({key: arrays[key] for key in names}, folder / "unet" / name)
    where = {key: name for name, names in parts.items() for key in names}
    (folder / "unet" / index).write_text(json.dumps({"weight_map": where}))


@pytest.mark.parametrize("variant", ["bf16", "non_ema"])
def test_a_variant_that_is_alone_is_named(folder, variant):
    _add(folder, "unet", variant)
    text = (
        "unet' must hold diffusion_pytorch_model.safetensors; it does not. It holds "
        f"diffusion_pytorch_model.{variant}.safetensors: pass `variant='{variant}'` to "
        "`draftx.load`"
    )
    with pytest.raises(ModelFileError) as caught:
        load(folder)
    assert text in str(caught.value)


def test_a_variant_is_read_where_it_is_asked_for(pipeline, folder):
    for part in STEMS:
        _add(folder, part, keep=part == "vae")
    assert_equal(load(folder, variant="bf16"), _half(pipeline))


def test_parts_without_it_are_read_without(pipeline, folder):
    _add(folder, "unet", keep=True)
    text = "no 'bf16' weights of vae, text_encoder; those without a variant are read"
    with pytest.warns(UserWarning, match=text):
        loaded = load(folder, variant="bf16")
    assert_equal(loaded.unet, _half(pipeline.unet))
    assert_equal(loaded.vae, pipeline.vae)
    # One part alone has no other to fall back to.
    unet = load_component(UNet2DConditionModel, folder / "unet", variant="bf16")
    assert_equal(unet, loaded.unet)
    with pytest.raises(ModelFileError, match="must hold .*model.fp16.safetensors"):
        load_component(UNet2DConditionModel, folder / "unet", variant="fp16")


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        (
            "diffusion_pytorch_model.safetensors.index.bf16.json",
            "diffusion_pytorch_model.bf16-0000{}-of-00002.safetensors",
        ),
        # Before diffusers 0.32.
        (
            "diffusion_pytorch_model.safetensors.bf16.index.json",
            "diffusion_pytorch_model-0000{}-of-00002.bf16.safetensors",
        ),
    ],
)
def test_shards_of_a_variant(pipeline, folder, index, shard):
    arrays = _add(folder, "unet")
    _path(folder, "unet", ".bf16").unlink()
    _shard(folder, arrays, index, shard)
    with pytest.raises(ModelFileError, match="pass `variant='bf16'`"):
        load(folder)
    with pytest.warns(UserWarning, match="no 'bf16' weights of vae, text_encoder"):
        assert_equal(load(folder, variant="bf16").unet, _half(pipeline.unet))


def test_a_variant_that_no_part_has_is_an_error(folder):
    _add(folder, "unet", keep=True)
    with pytest.raises(ModelFileError) as caught:
        load(folder, variant="fp16")
    text = str(caught.value)
    assert "`variant` must be None or a variant that" in text
    assert "got 'fp16', and no part has weights of that name" in text
    assert text.count("pass `variant='bf16'`") == 1
    with pytest.raises(ModelFileError, match="`variant` must be None or a variant"):
        load("tiny", variant="fp16")


@pytest.mark.parametrize("variant", ["../../secret", "", "a.b", ".bf16"])
def test_what_is_no_part_of_a_name_is_refused(folder, variant):
    with pytest.raises(ValueError, match="`variant` must be None or the part of"):
        load(folder, variant=variant)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parts", [["unet"], list(STEMS)])
def test_variants_are_those_that_diffusers_reads_live(folder, parts):
    diffusers = pytest.importorskip("diffusers")
    for part in parts:
        _add(folder, part, keep=True)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, variant="bf16")
    ours = load(folder, variant="bf16")
    for actual, expected in (
        (ours.unet.conv_out.bias, theirs.unet.conv_out.bias),
        (ours.vae.decoder.conv_out.bias, theirs.vae.decoder.conv_out.bias),
    ):
        np.testing.assert_array_equal(actual, expected.detach().float().numpy())
