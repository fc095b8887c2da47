"""The whole gradient, lowered for a CPU, a CUDA device and a TPU on any machine."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.kernels import compiling_for
from draftx.layers import Remat
from draftx.lora import add_lora, lora_filter, premerge
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    UNet2DConditionModel,
    UNetConfig,
)


# As little as has every layer's kind, with heads that cuDNN takes (a multiple of 8) and
# feature maps long enough for the TPU's kernel (32 x 32 tokens). Both levels attend.
_UNET = UNetConfig(
    sample_size=32,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(32, 64),
    layers_per_block=1,
    cross_attention_dim=32,
    attention_head_dim=2,
)
_VAE = AutoencoderConfig(
    sample_size=64,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(32, 64),
    layers_per_block=1,
)
_CUDNN = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]


class _Model(eqx.Module):
    unet: UNet2DConditionModel
    vae: AutoencoderKL


def _model():
    unet_key, vae_key, lora_key = jr.split(jr.key(0), 3)
    model = _Model(
        UNet2DConditionModel(_UNET, dtype=jnp.bfloat16, key=unet_key),
        AutoencoderKL(_VAE, dtype=jnp.bfloat16, key=vae_key),
    )
    return add_lora(model, rank=2, key=lora_key)


@pytest.fixture(scope="module")
def gradient():
    """The gradient of a brightness with respect to the adapter, and its arguments."""
    is_array = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(eqx.filter_eval_shape(_model), is_array)
    lora, frozen = eqx.partition(arrays, lora_filter(arrays))

    def brightness(lora, frozen, latents, text_embeddings):
        model = eqx.combine(lora, frozen, static)
        unet = premerge(model.unet)

        @eqx.filter_checkpoint
        def step(unet, latents, time):
            noise = unet(latents, time, text_embeddings, remat=Remat.STEP)
            return latents - noise.astype(latents.dtype)

        for time in (900.0, 400.0):
            latents = step(unet, latents, jnp.full(1, time))
        return jnp.mean(model.vae.decode(latents, remat=Remat.STEP))

    latents = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32)
    text_embeddings = jax.ShapeDtypeStruct((1, 77, 32), jnp.bfloat16)
    # One program for all three devices: what it is traced for is not its own.
    program = jax.jit(jax.value_and_grad(brightness))
    return program, (lora, frozen, latents, text_embeddings)


@pytest.mark.parametrize(
    ("device", "cudnn", "has_mosaic"),
    [
        (("cpu",), [], False),
        (("cuda", (9, 0)), _CUDNN, False),
        (("tpu",), [], True),
    ],
    ids=["cpu", "cuda", "tpu"],
)
def test_gradient_lowers_for_every_platform(device, cudnn, has_mosaic, gradient):
    program, args = gradient
    with compiling_for(*device):
        lowered = program.trace(*args).lower(lowering_platforms=device[:1])
    text = lowered.as_text()
    assert sorted(set(re.findall(r"__cudnn\$\w+", text))) == cudnn
    assert ("tpu_custom_call" in text) == has_mosaic
    # Forward, and backward for queries and for keys with values.
    assert text.count("@tpu_custom_call") >= 3 * has_mosaic
