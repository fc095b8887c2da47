"""Pipelines whose single files differ, and such files of arrays."""

import dataclasses

import numpy as np
from safetensors.numpy import save_file

from draftx import Pipeline
from draftx.io.original import KINDS
from draftx.models import AutoencoderKL, CLIPTextModel, UNet2DConditionModel

from .tiny import random_model, text_config, UNET, VAE


def odd_pipeline(tokenizer):
    """Levels without attention around one that has it, three layers each."""
    unet = dataclasses.replace(
        UNET,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8, 4),
        layers_per_block=3,
    )
    vae = dataclasses.replace(
        VAE,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        layers_per_block=3,
    )
    return pipeline_of(unet, vae, text_config(tokenizer), tokenizer)


def open_clip_pipeline(tokenizer):
    """As Stable Diffusion 2.1: linear projections, another text encoder, velocity."""
    unet = dataclasses.replace(UNET, use_linear_projection=True)
    text = dataclasses.replace(text_config(tokenizer), hidden_act="gelu")
    return pipeline_of(unet, VAE, text, tokenizer, KINDS["v2"].sampler)


def pipeline_of(unet, vae, text, tokenizer, sampler=None):
    rng = np.random.default_rng(3)
    return Pipeline(
        random_model(UNet2DConditionModel, unet, rng),
        random_model(AutoencoderKL, vae, rng),
        random_model(CLIPTextModel, text, rng),
        KINDS["v1"].sampler if sampler is None else sampler,
        tokenizer,
    )


def write_arrays(path, arrays):
    save_file({key: np.ascontiguousarray(x) for key, x in arrays.items()}, path)
    return path
