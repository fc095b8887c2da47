"""Classifier-free guidance: one batched call is two calls."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import Denoiser
from draftx.models import UNet2DConditionModel, UNetConfig

from ..helpers import assert_close
from ..models.parity import jit_quickly


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
    """Numbers in place of drawn weights: nothing to compile."""
    skeleton = eqx.filter_eval_shape(UNet2DConditionModel, _CONFIG, key=jr.key(0))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype)
    return jax.tree.map(draw, skeleton)


# Arguments, not constants: the two shapes of batches are all there is to compile.
_call = jit_quickly(
    lambda latents, timestep, unet, *texts: Denoiser(
        unet, jnp.asarray([timestep]), *texts
    )(latents, jnp.asarray(0))
)


def _inputs(getkey):
    latents = jr.normal(getkey(), (3, 4, 2, 4))
    text, negative = jr.normal(getkey(), (2, 3, 5, 6))
    return latents, text, negative


def test_one_batched_call_is_two(unet, getkey):
    latents, text, negative = _inputs(getkey)
    conditional = _call(latents, 501, unet, text, None, None)
    unconditional = _call(latents, 501, unet, negative, None, None)
    assert not jnp.allclose(conditional, unconditional, atol=1e-3)
    for scale in (0.0, 1.0, 7.5):
        guided = _call(latents, 501, unet, text, negative, jnp.asarray(scale))
        expected = unconditional + scale * (conditional - unconditional)
        assert_close(guided, expected, scale=max(1.0, scale))


def test_unguided_call_hands_on_its_arguments(unet, getkey):
    latents, text, _ = _inputs(getkey)
    actual = _call(latents, 981, unet, text, None, None)
    expected = jit_quickly(lambda unet, *args: unet(*args))(
        unet, latents, jnp.full(3, 981), text
    )
    assert_close(actual, expected)


def test_timesteps_may_be_fractions(unet, getkey):
    # Samplers such as `Euler` visit some.
    latents, text, _ = _inputs(getkey)
    call = lambda timestep: _call(latents, timestep, unet, text, None, None)
    assert_close(call(981.0), call(981))
    assert not jnp.allclose(call(980.5), call(981), atol=1e-6)


def test_images_keep_their_own_text(unet, getkey):
    latents, text, negative = _inputs(getkey)
    scale = jnp.asarray(3.0)
    before = _call(latents, 1, unet, text, negative, scale)
    other = text.at[1].add(1.0)
    after = _call(latents, 1, unet, other, negative, scale)
    changed = jnp.any(before != after, axis=(1, 2, 3))
    assert changed.tolist() == [False, True, False]


def test_prediction_is_float32_from_bfloat16_weights(unet, getkey):
    latents, text, negative = _inputs(getkey)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), unet)
    scale = jnp.asarray(3.0)
    for args in ((text, negative, scale), (text, None, None)):
        out = eqx.filter_eval_shape(
            lambda unet, *args: Denoiser(unet, jnp.asarray([1]), *args)(
                latents, jnp.asarray(0)
            ),
            low,
            *args,
        )
        assert (out.dtype, out.shape) == (jnp.float32, latents.shape)
