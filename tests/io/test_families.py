"""Files of another family: the error says what they look like."""

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import save_file

from draftx import load
from draftx.io import ModelFileError
from draftx.io.judges._clip import VIT_H_14
from draftx.io.pipeline._components import match_keys
from draftx.judges import CLIPModel
from draftx.models import (
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)

from ..rewards.test_reward_files import manifest


_MODELS = {
    "unet": (UNet2DConditionModel, UNetConfig()),
    "text": (CLIPTextModel, CLIPTextConfig()),
    "vit-h": (CLIPModel, VIT_H_14),
}


def _of_unet(width):
    """A UNet that attends to features of another width."""
    return {
        key: (shape[0], width)
        if ".attn2.to_k." in key or ".attn2.to_v." in key
        else shape
        for key, shape in manifest("unet").items()
    }


def _of_text(name):
    return {k: s for k, s in manifest(name).items() if k.startswith("text_model.")}


_FILES = {
    "Stable Diffusion 2": (
        "unet",
        lambda: _of_unet(1024),
        "the UNet of Stable Diffusion 2.x",
    ),
    "SDXL": (
        "unet",
        lambda: _of_unet(2048) | {"add_embedding.linear_1.weight": (1280, 2816)},
        "SDXL, which is not supported",
    ),
    "Flux": (
        "unet",
        lambda: {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
        "a diffusion transformer",
    ),
    "a LoRA": (
        "unet",
        lambda: {"unet.mid_block.to_q.lora.down.weight": (4, 320)},
        "an adapter: read it with `draftx.load_lora`",
    ),
    "one file": (
        "unet",
        lambda: {"model.diffusion_model.out.2.weight": (4, 320, 3, 3)},
        "a whole model in one file.*draftx.load",
    ),
    "an autoencoder": ("unet", lambda: manifest("vae"), "an autoencoder"),
    "a text encoder": (
        "unet",
        lambda: manifest("text_encoder"),
        "the text encoder of CLIP ViT-L/14",
    ),
    "a UNet for a text encoder": (
        "text",
        lambda: manifest("unet"),
        "the UNet of Stable Diffusion 1.x",
    ),
    "text of ViT-H": (
        "text",
        lambda: _of_text("clip_h14"),
        "the text encoder of CLIP ViT-H/14",
    ),
    "CLIP for its text": ("text", lambda: manifest("clip_l14"), "CLIP ViT-L/14"),
    "ViT-L for ViT-H": ("vit-h", lambda: manifest("clip_l14"), "CLIP ViT-L/14"),
}


@pytest.mark.parametrize("name", _FILES)
def test_what_a_file_looks_like_is_said(name):
    model, shapes, message = _FILES[name]
    cls, config = _MODELS[model]
    skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))
    with pytest.raises(ModelFileError, match=f"It looks like {message}"):
        match_keys(skeleton, shapes(), "a.safetensors")


def test_every_problem_is_in_one_message_five_of_each():
    shapes = _of_unet(1024)
    for key in [key for key in shapes if key.startswith("mid_block")]:
        del shapes[key]
        shapes[f"another.{key}"] = (1,)
    cls, config = _MODELS["unet"]
    skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))
    with pytest.raises(ModelFileError) as caught:
        match_keys(skeleton, shapes, "a.safetensors")
    text = str(caught.value)
    assert "46 missing: mid_block." in text
    assert "46 unexpected: another." in text
    assert "30 of the wrong shape: " in text
    assert text.count("and 41 more") == 2
    assert text.count("and 25 more") == 1
    assert len(text) < 2000


def test_a_single_file_of_another_family(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(
        {"conditioner.embedders.1.model.ln.weight": np.zeros(3, np.float32)}, path
    )
    with pytest.raises(
        ModelFileError, match="a whole model.*It looks like SDXL, which is not"
    ):
        load(path)
