"""Particles against known marginals, and the search that they serve."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import search
from draftx.diffusion import State
from draftx.search._ahead import Ahead
from draftx.search._particles import (
    effective_size,
    normalized,
    Particles,
    Rules,
    systematic,
)

from ..toys import toy_reward


_PROMPTS = ["cat", "do"]


def test_systematic_resampling_draws_as_often_as_weights_say():
    weights = jnp.asarray([0.1, 0.0, 0.35, 0.05, 0.5])
    offsets = jnp.linspace(0, 1, 2000, endpoint=False)[:, None]
    drawn = jax.jit(jax.vmap(systematic, in_axes=(None, 0)))(weights, offsets)
    counts = np.stack([np.bincount(row, minlength=5) for row in np.asarray(drawn)])
    expected = 5 * np.asarray(weights)
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=2e-3)
    assert np.all(counts >= np.floor(expected)[None] - (expected % 1 == 0)[None])
    assert np.all(counts <= np.ceil(expected)[None] + (expected % 1 == 0)[None])
    assert np.all(counts[:, 1] == 0)
    # Not beyond the end, whatever is rounded.
    last = systematic(jnp.asarray([1.0, 0.0, 0.0]), jnp.asarray([1 - 2**-24]))
    np.testing.assert_array_equal(last, [0, 0, 0])


def test_effective_size_is_that_of_equal_weights():
    weights = jnp.asarray([[0.25, 0.5, 1.0], [0.25, 0.5, 0.0], [0.25, 0.0, 0.0]])
    weights = jnp.concatenate([weights, jnp.asarray([[0.25, 0.0, 0.0]])])
    np.testing.assert_allclose(effective_size(weights), [4, 2, 1])
    np.testing.assert_allclose(
        normalized(jnp.full((3, 1), -jnp.inf)), np.full((3, 1), 1 / 3), rtol=1e-6
    )


# A chain of one number that keeps its variance: x' = a x + s z, x ~ N(0, 1).
_A, _STEPS, _SLOPE, _TEMPERATURE = 0.8, 4, 0.25, 0.7


def _at(x):
    """Particles there: one number each, as latents."""
    ahead = Ahead(State(jnp.zeros((1, 1, 1, 1))), None)
    latents = x[:, :, None, None, None]
    return eqx.tree_at(lambda ahead: ahead.state.latents, ahead, latents)


def _chain(rules, key, *, known=1.0):
    """Particles of the chain at their end, the reward being the slope times x.

    Its value is the slope times a to the number of steps to come, times `known`.
    """
    size, batch = rules.num_particles, 4

    def weigh(particles, x, index):
        worth = known * _SLOPE * _A ** (_STEPS - index) * x
        key_of_step = jr.fold_in(key, 100 + index)
        weighed = particles.weighed(rules, worth, jnp.asarray(index))
        return weighed.drawn_anew(rules, key_of_step)

    x = jr.normal(key, (size, batch))
    particles = weigh(Particles.begin(_at(x), rules), x, 0)
    drawn = [particles]
    for index in range(1, _STEPS + 1):
        before = particles.ahead.state.latents[..., 0, 0, 0]
        noise = jr.normal(jr.fold_in(key, index), (size, batch))
        x = _A * before + np.sqrt(1 - _A**2) * noise
        log_weights, paid = particles.log_weights, particles.paid
        particles = Particles(
            _at(x), particles.origin, particles.remembered, paid, log_weights
        )
        if index < _STEPS:
            particles = weigh(particles, x, index)
            drawn.append(particles)
    return particles.rewarded(rules, _SLOPE * x), x, drawn


@pytest.mark.parametrize(
    ("potential", "tempering", "resample_below", "known"),
    [
        ("difference", 0.0, 1.0, 1.0),
        ("difference", 0.0, 0.9, 0.3),
        ("max", 0.3, 0.9, 1.0),
        ("sum", 0.0, 1.0, 1.0),
    ],
)
def test_particles_have_the_marginal_of_the_model_weighed_by_the_reward(
    potential, tempering, resample_below, known
):
    rules = Rules(20_000, _TEMPERATURE, potential, tempering, resample_below)
    run = jax.jit(lambda key: _chain(rules, key, known=known)[:2])
    particles, x = run(jr.key(3))
    weights = normalized(particles.log_weights)
    mean = jnp.sum(weights * x, axis=0)
    variance = jnp.sum(weights * x**2, axis=0) - mean**2
    # exp(slope x / temperature) moves a Gaussian, and leaves it its width.
    np.testing.assert_allclose(mean, _SLOPE / _TEMPERATURE, atol=0.05)
    np.testing.assert_allclose(variance, 1, atol=0.08)


def test_an_exact_value_leaves_nothing_to_the_last_weight():
    rules = Rules(4000, _TEMPERATURE, "difference", 0.0, 1.0)
    particles, x, drawn = _chain(rules, jr.key(0))
    # The moved marginal is there in the particles themselves, before the last weight.
    before = drawn[-1].ahead.state.latents[..., 0, 0, 0]
    moved = _A * _SLOPE / _TEMPERATURE
    np.testing.assert_allclose(before.mean(), moved, atol=0.03)
    assert np.all(np.asarray(particles.origin) < 4000)
    assert len(np.unique(np.asarray(particles.origin)[:, 0])) < 4000
    np.testing.assert_allclose(
        particles.paid[..., 0] + 0, _SLOPE * x[..., 0] / _TEMPERATURE, atol=1e-5
    )


def test_rules_draw_anew_where_the_weights_are_uneven():
    rules = Rules(4, 1.0, "difference", 0.0, 0.5)
    x = jnp.zeros((4, 2))
    ahead = _at(x)
    worth = jnp.asarray([[0.0, 9.0], [0.1, 0.0], [0.2, 0.0], [0.1, jnp.nan]])
    particles = Particles.begin(ahead, rules).weighed(rules, worth, jnp.asarray(0))
    anew = particles.drawn_anew(rules, jr.key(0))
    np.testing.assert_array_equal(anew.origin, [[0, 0], [1, 0], [2, 0], [3, 0]])
    np.testing.assert_array_equal(anew.log_weights[:, 1], np.zeros(4))
    np.testing.assert_allclose(jnp.exp(anew.log_weights[:, 0]).sum(), 1, rtol=1e-6)
    # What is not a number never comes back.
    again = particles.weighed(rules, jnp.ones((4, 2)), jnp.asarray(1))
    assert np.asarray(again.log_weights)[3, 1] == -np.inf


def test_tempering_lets_values_count_bit_by_bit():
    rules = Rules(2, 1.0, "difference", 0.5, 1.0)
    shares = [float(rules.share(jnp.asarray(i))) for i in range(4)]
    np.testing.assert_allclose(shares, [0, 0.5, 1, 1])


def _options(steps=3, **kwargs):
    sampling = draftx.Sampling(steps, guidance_scale=2.0, eta=1.0)
    return dict(sampling=sampling, key=jr.key(5)) | kwargs


def test_one_particle_is_sampling(short_pipeline):
    found = search.smc(
        short_pipeline, toy_reward, _PROMPTS, num_particles=1, **_options()
    )
    images = draftx.sample(short_pipeline, _PROMPTS, **_options())
    np.testing.assert_allclose(found.images, images, atol=1e-5)
    assert found.history.shape == (3, 2)
    assert found.budget.unet_forwards == 2 * 2 * 3
    assert found.budget.reward_queries == 2 * (3 + 1)


def test_the_best_of_particles_is_given_with_its_noise(short_pipeline):
    options = _options(num_particles=5, temperature=1e-3, resample_below=1.0)
    found = search.smc(short_pipeline, toy_reward, _PROMPTS, **options)
    np.testing.assert_allclose(found.rewards, toy_reward(found.images), atol=1e-6)
    assert np.all(found.rewards >= found.history[-1] - 1e-6)
    one = search.smc(short_pipeline, toy_reward, _PROMPTS, **_options(num_particles=1))
    assert float(found.rewards.mean()) > float(one.rewards.mean())
    # All particles go back to one of the noises that they began with.
    wide = search.smc(
        short_pipeline,
        toy_reward,
        _PROMPTS,
        **_options(num_particles=5, temperature=1e3, keep="draw"),
    )
    assert wide.latents.shape == (2, 8, 8, 4)
    assert found.budget.unet_forwards == 5 * 2 * 2 * 3
    assert found.budget.images == 5 * 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_particles=0), "`num_particles` must be a whole number of at least 1"),
        (dict(temperature=0.0), "`temperature` must be finite and positive"),
        (dict(tempering=-1.0), "`tempering` must be finite and not negative"),
        (dict(resample_below=0.0), r"`resample_below` must lie in \(0, 1\]"),
        (dict(potential="product"), "`potential` must be one of .*; got 'product'"),
        (dict(keep="all"), "`keep` must be one of .*; got 'all'"),
        (dict(value=3), "`value` must be an AbstractValue, such as"),
        (dict(sampling=draftx.Sampling(3)), "must leave a step that adds noise"),
        (dict(prompts=[]), "`prompts` must hold at least one"),
    ],
)
def test_bad_input_is_named(short_pipeline, kwargs, message, without_types):
    arguments = dict(reward=toy_reward, prompts=_PROMPTS) | _options() | kwargs
    with pytest.raises(ValueError, match=message):
        search.smc(short_pipeline, **arguments)
