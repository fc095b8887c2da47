"""The `config.json` of a network, as diffusers and transformers write it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import equinox as eqx

from ...models import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
)
from ..formats import AbstractTensors, ModelFileError, shown


# Diffusers rewrites the sample size of UNets that say they come from before 0.9.
DIFFUSERS_VERSION = "0.35.0"
# What the models of draftx always do, said so that nobody has to know the defaults.
_UNET_FIXED = dict(
    act_fn="silu",
    center_input_sample=False,
    downsample_padding=1,
    dropout=0.0,
    dual_cross_attention=False,
    mid_block_scale_factor=1,
    mid_block_type="UNetMidBlock2DCrossAttn",
    only_cross_attention=False,
    resnet_time_scale_shift="default",
    upcast_attention=False,
)
_VAE_FIXED = dict(
    act_fn="silu",
    mid_block_add_attention=True,
    use_post_quant_conv=True,
    use_quant_conv=True,
)
_TEXT_FIXED = dict(
    architectures=["CLIPTextModel"],
    attention_dropout=0.0,
    dropout=0.0,
    initializer_factor=1.0,
    initializer_range=0.02,
    model_type="clip_text_model",
)


# Fields that say how often something is there.
_COUNTS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block")


def check_sizes(config: Mapping[str, Any], name: str, file: AbstractTensors) -> None:
    """Raises if a network would have no end, or scale latents by what is no number.

    **Arguments:**

    - `config`: The parsed `config.json`.
    - `name`: Of the config, for error texts.
    - `file`: Its weights.
    """
    for field in _COUNTS:
        said = config.get(field)
        for count in said if isinstance(said, list) else [said]:
            # Making it would take a day, and all memory.
            if isinstance(count, int) and count > len(file.shapes):
                raise ModelFileError(
                    f"{name!r} must describe the weights in {file.name!r}; "
                    f"`{field}` is {shown(str(count))}, and there are "
                    f"{len(file.shapes)} tensors."
                )
    factor = config.get("scaling_factor")
    if isinstance(factor, int | float) and not 0 < abs(factor) < 2.0**128:
        raise ModelFileError(
            f"`scaling_factor` in {name!r} must be finite and not 0; got "
            f"{shown(str(factor))}."
        )


def config_dict(model: eqx.Module) -> dict[str, Any]:
    """The `config.json` of a model, every field said."""
    if not isinstance(model, UNet2DConditionModel | AutoencoderKL | CLIPTextModel):
        raise ValueError(
            "`model` must be a UNet2DConditionModel, an AutoencoderKL or a "
            f"CLIPTextModel; got a {type(model).__name__}."
        )
    config = dataclasses.asdict(model.config)
    if isinstance(model, CLIPTextModel):
        dtype = model.token_embedding.dtype
        # Rows after those of CLIP's own vocabulary are learned words, or padding.
        end = min(model.config.vocab_size, CLIPTextConfig().vocab_size) - 1
        ids = dict(
            bos_token_id=end - 1,
            eos_token_id=end,
            pad_token_id=end,
            projection_dim=model.config.hidden_size,
            torch_dtype=dtype.name,
        )
        return _TEXT_FIXED | config | ids
    head = dict(_class_name=type(model).__name__, _diffusers_version=DIFFUSERS_VERSION)
    if isinstance(model, AutoencoderKL):
        return head | _VAE_FIXED | config
    # Diffusers takes the number of heads only under the other name.
    if config["num_attention_heads"] is not None:
        config["attention_head_dim"] = config["num_attention_heads"]
        config["num_attention_heads"] = None
    return head | _UNET_FIXED | config
