"""The whole gradient, lowered for a CPU, a CUDA device and a TPU on any machine."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx.diffusion import DDIM, SchedulerConfig
from draftx.episodes import make_task
from draftx.finetuning import split, value_and_grad
from draftx.kernels import compiling_for
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
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
_TEXT = CLIPTextConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
)
_METHOD = draftx.DRaFT()
_CUDNN = ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]


def _brightness(images):
    return jnp.mean(images, axis=(1, 2, 3))


def _operands(tokenizer):
    """What `draftx.reward_gradient` differentiates: the adapter, the rest, a batch."""
    unet_key, vae_key, text_key, lora_key = jr.split(jr.key(0), 4)
    pipeline = draftx.Pipeline(
        unet=UNet2DConditionModel(_UNET, dtype=jnp.bfloat16, key=unet_key),
        vae=AutoencoderKL(_VAE, dtype=jnp.bfloat16, key=vae_key),
        text_encoder=CLIPTextModel(_TEXT, dtype=jnp.bfloat16, key=text_key),
        sampler=DDIM(SchedulerConfig()),
        tokenizer=tokenizer,
    )
    pipeline = draftx.add_lora(pipeline, rank=2, key=lora_key)
    latents = jr.normal(jr.key(1), (1, *pipeline.latent_shape))
    table = draftx.Table.of(["a fox"])
    sampling = draftx.Sampling(num_inference_steps=2)
    task = make_task(pipeline, _brightness, table, sampling, shape=latents.shape)
    return *split(task), task.batch(latents, jr.key(2))


@pytest.fixture(scope="module")
def gradient(tokenizer):
    """The gradient of DRaFT with respect to the adapter, and its arguments' shapes."""
    operands = eqx.filter_eval_shape(_operands, tokenizer)
    is_array = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    shapes, static = eqx.partition(operands, is_array)

    # One program for all three devices: what it is traced for is not its own.
    @jax.jit
    def program(arrays):
        trainable, task, batch = eqx.combine(arrays, static)
        (_, rewards), gradient = value_and_grad(trainable, task, _METHOD, batch)
        return rewards, draftx.lora_state_dict(gradient)

    return program, shapes


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
    program, shapes = gradient
    with compiling_for(*device):
        lowered = program.trace(shapes).lower(lowering_platforms=device[:1])
    text = lowered.as_text()
    assert sorted(set(re.findall(r"__cudnn\$\w+", text))) == cudnn
    assert ("tpu_custom_call" in text) == has_mosaic
    # Forward, and backward for queries and for keys with values.
    assert text.count("@tpu_custom_call") >= 3 * has_mosaic
