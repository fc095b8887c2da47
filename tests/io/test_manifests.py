"""The tensors of the real Stable Diffusion 1.4, by name and shape, without weights."""

import gzip
import json
import pathlib

import equinox as eqx
import jax.random as jr
import pytest

from draftx.io import ModelFileError
from draftx.io.pipeline._components import match_keys
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)


FOLDER = pathlib.Path(__file__).parent.parent / "goldens" / "manifests"
MODELS = {
    "unet": (UNet2DConditionModel, UNetConfig(), 686),
    "vae": (AutoencoderKL, AutoencoderConfig(), 248),
    "text_encoder": (CLIPTextModel, CLIPTextConfig(), 196),
}


def manifest(name):
    shapes = json.loads(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()))
    return {key: tuple(shape) for key, shape in shapes.items()}


def skeleton(name):
    cls, config, _ = MODELS[name]
    return eqx.filter_eval_shape(cls, config, key=jr.key(0))


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_its_place(name):
    shapes = manifest(name)
    keys = match_keys(skeleton(name), shapes, name)
    assert sorted(keys.values()) == sorted(shapes)
    assert len(keys) == MODELS[name][2]


def test_the_names_of_the_published_files():
    """The file of 2022 has other names in the autoencoder and the text encoder."""
    text = {f"text_model.{k}": shape for k, shape in manifest("text_encoder").items()}
    text["text_model.embeddings.position_ids"] = (1, 77)
    assert len(match_keys(skeleton("text_encoder"), text, "text")) == 196
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    vae = {}
    for key, shape in manifest("vae").items():
        for new, name in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        vae[key] = shape
    assert sum("proj_attn" in key for key in vae) == 4
    assert len(match_keys(skeleton("vae"), vae, "vae")) == 248
    # The same tensor under both names is one too many.
    vae["encoder.mid_block.attentions.0.to_q.bias"] = (512,)
    with pytest.raises(ModelFileError, match="1 unexpected"):
        match_keys(skeleton("vae"), vae, "vae")


def test_the_tensors_of_another_family_are_refused():
    shapes = manifest("unet")
    for key, shape in shapes.items():
        if "attn2.to_k" in key or "attn2.to_v" in key:
            shapes[key] = (shape[0], 1024)  # Stable Diffusion 2.
    with pytest.raises(ModelFileError, match="32 of the wrong shape"):
        match_keys(skeleton("unet"), shapes, "sd2")
