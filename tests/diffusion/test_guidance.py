"""Classifier-free guidance: one batched call is two calls."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.diffusion import Denoiser
from draftx.models import UNet2DConditionModel, UNetConfig

from ..helpers import assert_close


_CONFIG = UNetConfig(
    attention_head_dim=2,
    block_out_channels=(4,),
    cross_attention_dim=6,
    down_block_types=("DownBlock2D",),
    layers_per_block=1,
    norm_num_groups=2,
    up_block_types=("UpBlock2D",),
)


@pytest.fixture(scope="module")
def unet():
    make = eqx.filter_jit(lambda key: UNet2DConditionModel(_CONFIG, key=key))
    return make(jr.key(0))


def _inputs(getkey):
    latents = jr.normal(getkey(), (3, 4, 2, 4))
    text, negative = jr.normal(getkey(), (2, 3, 5, 6))
    return latents, text, negative


def test_one_batched_call_is_two(unet, getkey):
    latents, text, negative = _inputs(getkey)
    timestep = jnp.asarray(501)
    call = eqx.filter_jit(lambda denoiser: denoiser(latents, timestep))
    conditional = call(Denoiser(unet, text, None, None))
    unconditional = call(Denoiser(unet, negative, None, None))
    assert not jnp.allclose(conditional, unconditional, atol=1e-3)
    for scale in (0.0, 1.0, 7.5):
        guided = call(Denoiser(unet, text, negative, jnp.asarray(scale)))
        expected = unconditional + scale * (conditional - unconditional)
        assert_close(guided, expected, scale=max(1.0, scale))


def test_unguided_call_hands_on_its_arguments(unet, getkey):
    latents, text, _ = _inputs(getkey)
    denoiser = eqx.filter_jit(Denoiser(unet, text, None, None))
    expected = eqx.filter_jit(unet)(latents, jnp.full(3, 981), text)
    assert_close(denoiser(latents, jnp.asarray(981)), expected)


def test_images_keep_their_own_text(unet, getkey):
    latents, text, negative = _inputs(getkey)
    call = eqx.filter_jit(lambda denoiser: denoiser(latents, jnp.asarray(1)))
    scale = jnp.asarray(3.0)
    before = call(Denoiser(unet, text, negative, scale))
    after = call(Denoiser(unet, text.at[1].add(1.0), negative, scale))
    changed = jnp.any(before != after, axis=(1, 2, 3))
    assert changed.tolist() == [False, True, False]


def test_prediction_is_float32_from_bfloat16_weights(unet, getkey):
    latents, text, negative = _inputs(getkey)
    low = eqx.filter_eval_shape(
        lambda key: UNet2DConditionModel(_CONFIG, dtype=jnp.bfloat16, key=key),
        jr.key(0),
    )
    scale = jnp.asarray(3.0)
    for args in ((text, negative, scale), (text, None, None)):
        out = eqx.filter_eval_shape(
            lambda unet, *args: Denoiser(unet, *args)(latents, jnp.asarray(1)),
            low,
            *args,
        )
        assert (out.dtype, out.shape) == (jnp.float32, latents.shape)
