"""Single files that are no whole model, and what of them is asked for wrongly."""

import numpy as np
import pytest

from draftx import load
from draftx.io import ModelFileError

from .single_files import write_arrays


UNET_KEY = "model.diffusion_model.out.2.bias"
_WRONG = {
    "missing": (lambda a: a.pop(UNET_KEY), "1 missing: conv_out.bias"),
    "unexpected": (
        lambda a: a.update({"model.diffusion_model.more": a[UNET_KEY]}),
        "1 unexpected: model.diffusion_model.more.$",
    ),
    "misshaped": (
        lambda a: a.update({UNET_KEY: a[UNET_KEY][:2]}),
        r"1 of the wrong shape: conv_out.bias: \(2,\), not \(4,\)",
    ),
    "class labels": (
        lambda a: a.update({"model.diffusion_model.label_emb.0.0.bias": a[UNET_KEY]}),
        "It looks like SDXL",
    ),
    "SDXL": (
        lambda a: a.update({"conditioner.embedders.0.x": a[UNET_KEY]}),
        "looks like SDXL, which has two text encoders. It is not supported",
    ),
    "SD3": (
        lambda a: a.update({"model.diffusion_model.joint_blocks.0.x": a[UNET_KEY]}),
        "looks like Stable Diffusion 3",
    ),
    "Flux": (
        lambda a: a.update({"model.diffusion_model.double_blocks.0.x": a[UNET_KEY]}),
        "looks like Flux",
    ),
    "ControlNet": (
        lambda a: a.update({"control_model.input_blocks.0.x": a[UNET_KEY]}),
        "looks like a ControlNet",
    ),
    "no text encoder": (
        lambda a: [a.pop(k) for k in [*a] if k.startswith("cond_stage_model.")],
        "has no text encoder, whose names",
    ),
    "an autoencoder": (
        lambda a: [a.pop(k) for k in [*a] if not k.startswith("first_stage_model.")],
        "has no UNet, no text encoder",
    ),
}


@pytest.mark.parametrize("name", _WRONG)
def test_what_does_not_fit_is_named(v1, tmp_path, name):
    arrays, folder = dict(v1[0]), v1[1]
    change, text = _WRONG[name]
    change(arrays)
    with pytest.raises(ModelFileError, match=text):
        load(write_arrays(tmp_path / "x.safetensors", arrays), config=folder)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("unet.mid_block.to_q.lora.down.weight", "is a LoRA.*draftx.load_lora"),
        ("lora_unet_mid_block.lora_down.weight", "is a LoRA"),
        ("emb_params", "is a learned word.*draftx.load_embedding"),
        ("double_blocks.0.img_attn.qkv.weight", "a diffusion transformer"),
        ("control_model.input_blocks.0.0.weight", "looks like a ControlNet"),
        ("decoder.up_blocks.0.resnets.0.norm1.weight", "looks like an autoencoder"),
        ("decoder.mid.block_1.norm1.weight", "has none|learned word"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, key, text):
    arrays = {key: np.ones((2, 3), np.float32)}
    with pytest.raises(ModelFileError, match=f"must hold a whole model.*({text})"):
        load(write_arrays(tmp_path / "x.safetensors", arrays))


def test_what_is_asked_for_wrongly(v1, saved, tmp_path):
    path = write_arrays(tmp_path / "x.safetensors", v1[0])
    with pytest.raises(ModelFileError, match=r"attends to \[12\] features of the text"):
        load(path)
    with pytest.raises(ModelFileError, match="or `config` name a folder"):
        load(path, config="v1")
    with pytest.raises(ValueError, match="`config` must be None, one of .*'v3'"):
        load(path, config="v3")
    with pytest.raises(ModelFileError, match="must be a folder with a model_index"):
        load(path, config=tmp_path)
    with pytest.raises(ValueError, match="`config` must be None unless `source` is a"):
        load(saved, config="v1")
    with pytest.raises(ValueError, match="`variant` must be None for a single file"):
        load(path, variant="fp16")
    with pytest.raises(ValueError, match="`revision` must be None unless"):
        load(path, revision="main")
    for name in ("x.gguf", "x"):
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(ModelFileError, match=r"ends in \.safetensors, \.ckpt"):
            load(tmp_path / name)
    with pytest.raises(ModelFileError, match="and there is no such"):
        load(tmp_path / "absent.ckpt")
