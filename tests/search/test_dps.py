"""Guidance through the posterior mean, against its formula written out."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import search
from draftx.diffusion import step_noise
from draftx.pipeline import prepare

from ..toys import toy_reward


_PROMPTS = ["cat", "do"]
_SAMPLING = draftx.Sampling(3, guidance_scale=2.0, eta=1.0)


def _written_out(pipeline, scale, normalize):
    """The algorithm in the numbers of DDIM, and nothing of the package's chains."""
    batch = prepare(
        pipeline, draftx.Table.of(_PROMPTS), _SAMPLING, key=jr.key(5), latents=None
    )
    steps = pipeline.sampler.steps(3, eta=1.0)
    denoiser = pipeline.denoiser(
        steps.timestep, batch.conditioning, batch.plan.guidance_scale
    )
    x = batch.latents
    for i in range(3):
        a, b, s = steps.alpha[i], steps.prev_alpha[i], steps.noise_scale[i]

        def clean(x, i=i, a=a):
            noise = denoiser(x, jnp.asarray(i))
            return (x - jnp.sqrt(1 - a) * noise) / jnp.sqrt(a), noise

        def total(x, clean=clean):
            return jnp.sum(toy_reward(pipeline.decode(clean(x)[0])))

        gradient = jax.grad(total)(x)
        if normalize:
            size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
            gradient = gradient / size
        x0, noise = clean(x)
        mean = jnp.sqrt(b) * x0 + jnp.sqrt(1 - b - s**2) * noise
        drawn = step_noise(batch.key, jnp.asarray(i), x)
        x = mean + s * drawn + scale * gradient
    return x


@pytest.mark.parametrize(("scale", "normalize"), [(300.0, False), (0.1, True)])
def test_it_is_its_formula(short_pipeline, scale, normalize):
    found = search.dps(
        short_pipeline,
        toy_reward,
        _PROMPTS,
        _SAMPLING,
        scale=scale,
        normalize=normalize,
        key=jr.key(5),
    )
    expected = jax.jit(lambda p: _written_out(p, scale, normalize))(
        dataclasses.replace(short_pipeline)
    )
    without = jax.jit(lambda p: _written_out(p, 0.0, False))(short_pipeline)
    moved = float(jnp.abs(expected - without).max())
    assert moved > 0.05
    np.testing.assert_allclose(found.clean_latents, expected, atol=2e-3 * moved)
    assert float(found.rewards.mean()) > float(
        toy_reward(short_pipeline.decode(without)).mean()
    )


def test_without_a_push_it_is_sampling(short_pipeline):
    found = search.dps(
        short_pipeline, toy_reward, _PROMPTS, _SAMPLING, scale=0.0, key=jr.key(5)
    )
    images = draftx.sample(short_pipeline, _PROMPTS, _SAMPLING, key=jr.key(5))
    np.testing.assert_allclose(found.images, images, atol=1e-5)
    np.testing.assert_allclose(found.rewards, toy_reward(found.images), atol=1e-6)
    assert found.history.shape == (4, 2)
    budget = found.budget
    assert (budget.unet_forwards, budget.unet_backwards) == (12, 12)
    assert (budget.images, budget.reward_queries) == (2, 8)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(scale=-1.0), "`scale` must be finite and not negative"),
        (dict(normalize="yes"), "`normalize` must be a bool"),
        (dict(progress="no"), "`progress` must be a bool"),
        (dict(reward=lambda x: toy_reward(jnp.round(x))), "gradient"),
        (dict(reward=draftx.rewards.HostReward(lambda x: [1.0] * len(x))), "gradient"),
    ],
)
def test_bad_input_is_named(short_pipeline, kwargs, message, without_types):
    arguments = dict(reward=toy_reward, prompts=_PROMPTS, sampling=_SAMPLING) | kwargs
    with pytest.raises(ValueError, match=message):
        search.dps(short_pipeline, **arguments)
