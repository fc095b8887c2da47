"""Gradients with float16 weights are those of float32, however small they are."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import draftx
from draftx.lora import lora_filter
from draftx.models import AutoencoderKL

from ..helpers import relative_error
from ..io.tiny import random_lora, random_model, SHORT_VAE


# Of layers that gradients reach in all the ways there are: through the UNet, its text
# and its time, and through the text encoder.
_TARGETS = ("attn2.to_v", "attn2.to_q", "proj_out", "time_emb_proj", "v_proj")
_SAMPLING = draftx.Sampling(num_inference_steps=2, guidance_scale=2.0)
# What 512 x 512 pixels and a reward of about a thousandth make of the gradient of one
# pixel: 1e-9, where float16 ends at 6e-8.
_TINY = 1e-3 * (16 * 16) / (512 * 512)


def _reward(images):
    contrast = images[..., 0] - images[..., 1] + 0.5 * images[..., 2] ** 2
    return _TINY * jnp.mean(contrast, axis=(1, 2))


@pytest.fixture(scope="module")
def pipelines(short_pipeline):
    """One that computes in float32, and one in float16, of the same numbers."""
    config = dataclasses.replace(SHORT_VAE, force_upcast=False)
    vae = random_model(AutoencoderKL, config, np.random.default_rng(2))
    pipeline = random_lora(
        eqx.tree_at(lambda p: p.vae, short_pipeline, vae), targets=_TARGETS
    )
    trained, frozen = eqx.partition(pipeline, lora_filter(pipeline))
    trained = jax.tree.map(lambda x: 0.05 * x, trained)
    cast = lambda tree, dtype: jax.tree.map(lambda x: x.astype(dtype), tree)
    half = cast(frozen, jnp.float16)
    wide = cast(half, jnp.float32)
    return eqx.combine(trained, wide), eqx.combine(trained, half)


def _gradient(pipeline, method, **options):
    _, gradient = draftx.reward_gradient(
        pipeline, _reward, ["cat", "do"], _SAMPLING, method=method, **options
    )
    return draftx.lora_state_dict(gradient)


def _assert_agree(actual, expected, tolerance):
    """All together, and no layer is left out."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert np.any(expected[name])
        zeros = np.mean(np.asarray(actual[name]) == 0)
        assert zeros <= np.mean(np.asarray(expected[name]) == 0), name
    flat = lambda state: np.concatenate([np.ravel(state[name]) for name in expected])
    assert relative_error(flat(actual), flat(expected)) < tolerance


_METHODS = [
    (draftx.DRaFT(1), {}),
    (draftx.DRaFT(), {}),
    (draftx.DRaFTLV(), {}),
    (draftx.SingleRewardLV(), {}),
    (draftx.Penalized(draftx.DRaFT(1), weight=1e-6), {}),
    (draftx.DRaFT(), dict(memory=draftx.Memory("none", images_at_once=1))),
]


def test_gradients_of_networks_do_not_underflow(pipelines):
    """With cotangents as small as those of pixels, through all networks but a chain."""
    ids, latents = jnp.asarray([[1, 2, 3, 4]]), jr.normal(jr.key(0), (1, 4, 4, 4))

    @jax.jit
    def gradient(trained, frozen):
        def loss(trained):
            pipeline = eqx.combine(trained, frozen)
            text = pipeline.embed(ids)
            prediction = pipeline.unet(latents, jnp.asarray([7]), text)
            images = pipeline.decode(prediction.astype(jnp.float32))
            return jnp.sum(_reward(images))

        return draftx.lora_state_dict(jax.grad(loss)(trained))

    expected, actual = (
        gradient(*eqx.partition(pipeline, lora_filter(pipeline)))
        for pipeline in pipelines
    )
    _assert_agree(actual, expected, 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "options"), _METHODS)
def test_gradients_do_not_underflow(pipelines, method, options):
    wide, half = pipelines
    expected = _gradient(wide, method, **options)
    # A pixel at the edge of [0, 1] may count in one precision and not in the other.
    _assert_agree(_gradient(half, method, **options), expected, 5e-2)


@pytest.mark.slow
@pytest.mark.parametrize("method", [draftx.DDPO(), draftx.RewardWeighted()])
def test_rounds_learn_the_same(pipelines, method):
    def learned(pipeline):
        result = draftx.finetune_in_rounds(
            pipeline,
            _reward,
            ["cat", "do"],
            sampling=_SAMPLING,
            method=method,
            num_train_steps=1,
            batch_size=4,
            optimizer=optax.sgd(100.0),
            key=jr.key(0),
            callbacks=(),
        )
        after = draftx.lora_state_dict(result.pipeline)
        before = draftx.lora_state_dict(pipeline)
        return {name: after[name] - before[name] for name in after}

    wide, half = pipelines
    _assert_agree(learned(half), learned(wide), 1e-1)
