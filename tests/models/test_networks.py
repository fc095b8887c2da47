"""What holds for the networks beside parity: dtypes, ranges, batches, adapters."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.kernels import compiling_for
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)

from ..helpers import assert_close
from .parity import jit_quickly


_UNET = UNetConfig(
    attention_head_dim=2,
    block_out_channels=(8,),
    cross_attention_dim=6,
    down_block_types=("DownBlock2D",),
    layers_per_block=1,
    norm_num_groups=2,
    up_block_types=("UpBlock2D",),
)
_VAE = AutoencoderConfig(
    block_out_channels=(4, 4),
    down_block_types=("DownEncoderBlock2D",) * 2,
    layers_per_block=1,
    norm_num_groups=2,
    scaling_factor=2.0,
    up_block_types=("UpDecoderBlock2D",) * 2,
)
_CLIP = CLIPTextConfig(
    hidden_size=8,
    intermediate_size=12,
    max_position_embeddings=6,
    num_attention_heads=2,
    num_hidden_layers=1,
    vocab_size=11,
)


def _build(model_cls, config):
    """Numbers in place of drawn weights: nothing to compile."""
    skeleton = eqx.filter_eval_shape(model_cls, config, key=jr.key(0))
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype)
    return jax.tree.map(draw, skeleton)


def _to(model, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), model)


_call = jit_quickly(lambda model, *args: model(*args))


def test_unet_in_bfloat16_stays_near_float32(getkey):
    unet = _build(UNet2DConditionModel, _UNET)
    latents, text = jr.normal(getkey(), (2, 4, 4, 4)), jr.normal(getkey(), (2, 5, 6))
    timesteps = jnp.asarray([1, 981])
    low = _to(unet, jnp.bfloat16)
    out = _call(low, latents, timesteps, text)
    assert low.dtype == out.dtype == jnp.bfloat16
    expected = _call(unet, latents, timesteps, text)
    assert expected.dtype == jnp.float32
    error = jnp.linalg.norm(out.astype(jnp.float32) - expected)
    assert error < 0.03 * jnp.linalg.norm(expected)


def test_unet_for_a_tpu_predicts_the_same(getkey):
    # Two texts an image, which a TPU puts side by side from the start; feed-forward
    # layers in halves.
    config = dataclasses.replace(
        _UNET,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    unet = _build(UNet2DConditionModel, config)
    latents, text = jr.normal(getkey(), (2, 3, 5, 4)), jr.normal(getkey(), (4, 3, 6))
    d_out = jr.normal(getkey(), (4, 3, 5, 4))

    @eqx.filter_jit
    def both(unet, latents, text):
        given = unet.time_shifts(jnp.asarray([7.0])), unet.text_context(text)
        return jax.vjp(lambda latents: unet.denoise(latents, *given), latents)[1](d_out)

    expected = both(unet, latents, text)
    with compiling_for("tpu"):
        actual = both(unet, latents, text)
    assert_close(actual, expected, scale=10)


def test_unet_treats_images_apart(getkey):
    unet = _build(UNet2DConditionModel, _UNET)
    latents, text = jr.normal(getkey(), (2, 4, 4, 4)), jr.normal(getkey(), (2, 5, 6))
    timesteps = jnp.asarray([1, 981])
    both = _call(unet, latents, timesteps, text)
    swapped = _call(unet, latents[::-1], timesteps[::-1], text[::-1])
    assert_close(swapped[::-1], both)


def test_autoencoder_scales_latents_and_clips_images(getkey):
    vae = _build(AutoencoderKL, _VAE)
    images = jr.uniform(getkey(), (2, 4, 6, 3))

    @jit_quickly
    def run(vae, key):
        mean, log_variance = vae.posterior(images)
        drawn = vae.encode(images, key=key)
        decoded = vae.decode_unclipped(30 * mean), vae.decode(30 * mean)
        return mean, log_variance, vae.encode(images), drawn, *decoded

    mean, log_variance, encoded, drawn, raw, clipped = run(vae, getkey())
    assert mean.shape == (2, 2, 3, 4)
    assert_close(encoded, 2.0 * mean)
    deviations = (drawn / 2.0 - mean) / jnp.exp(log_variance / 2)
    assert 0.5 < jnp.std(deviations) < 1.5
    assert raw.shape == clipped.shape == images.shape
    assert jnp.any(raw != clipped)
    assert_close(clipped, jnp.clip(raw, 0.0, 1.0))


def test_autoencoder_gives_float32_from_bfloat16_weights():
    vae = _to(_build(AutoencoderKL, _VAE), jnp.bfloat16)
    assert vae.dtype == jnp.bfloat16
    shapes = eqx.filter_eval_shape(
        lambda vae: (
            vae.encode(jnp.ones((1, 4, 4, 3))),
            vae.decode(jnp.ones((1, 2, 2, 4))),
        ),
        vae,
    )
    assert [s.dtype for s in shapes] == [jnp.float32, jnp.float32]
    assert [s.shape for s in shapes] == [(1, 2, 2, 4), (1, 4, 4, 3)]


def test_text_encoder_sees_only_what_came_before(getkey):
    encoder = _build(CLIPTextModel, _CLIP)
    ids = jr.randint(getkey(), (2, 6), 0, 11)
    other = ids.at[:, 4].set((ids[:, 4] + 1) % 11)
    before, after = _call(encoder, ids), _call(encoder, other)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert jnp.all(jnp.any(after[:, 4:] != before[:, 4:], axis=-1))


def test_wrong_shapes_are_caught_by_annotation():
    unet = _build(UNet2DConditionModel, _UNET)
    text, timesteps = jnp.zeros((2, 5, 6)), jnp.asarray([1, 2])
    latents = jnp.zeros((2, 4, 4, 4))
    for args in (
        (latents[..., :3], timesteps, text),
        (latents, timesteps[:1], text),
        (latents, timesteps, text[:1]),
    ):
        with pytest.raises(Exception, match="(?i)type-check"):
            eqx.filter_eval_shape(unet, *args)
