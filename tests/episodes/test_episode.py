"""An episode of toys: what is scored, charged and frozen."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import Charge

from ..toys import toy_decode, toy_episode, toy_noise, toy_reward, ToyDenoiser, WEIGHT


def _episode(**options):
    denoiser = ToyDenoiser(jnp.asarray(WEIGHT, jnp.float32))
    return toy_episode(denoiser, toy_noise(4), **options)


def test_the_objective_is_the_mean_reward_less_the_charge():
    episode = _episode()
    state = episode.run(0)
    value, rewards = episode.score(state)
    expected = toy_reward(toy_decode(state.latents, None))
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)
    np.testing.assert_allclose(value, jnp.mean(expected), rtol=1e-5)
    charge = Charge(jnp.asarray([1.0, 2.0, 3.0, 6.0]), jnp.asarray(2.0))
    charged = dataclasses.replace(state, charge=charge)
    value, rewards = episode.score(charged)
    np.testing.assert_allclose(value, jnp.mean(expected) - 1.5, rtol=1e-5)
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)
    # Of what no prediction was charged, nothing is taken off.
    nothing = Charge.nothing(state.latents)
    assert episode.objective(rewards.total, nothing) == jnp.mean(rewards)


def test_a_frozen_chain_stops_where_it_is_told():
    episode = _episode()
    start = episode.run_frozen(0)
    np.testing.assert_array_equal(start.latents, episode.noise)
    stop = jnp.asarray(len(episode.chain))
    end = jax.jit(lambda stop: episode.run_frozen(stop))(stop)
    np.testing.assert_allclose(end.latents, episode.run(None).latents, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_a_few_images_at_a_time_are_all_at_once(size):
    latents = jr.normal(jr.key(0), (4, 2, 2, 3))
    weights = jnp.asarray([1.0, -2.0, 0.5, 0.0])

    def both(episode):
        total = lambda latents: jnp.sum(weights * episode.rewards(latents))
        return episode.rewards(latents), jax.grad(total)(latents)

    whole, few = both(_episode()), both(_episode(images_at_once=size))
    for a, b in zip(few, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    alone = _episode(images_at_once=size).rewards_alone
    np.testing.assert_allclose(alone(latents), whole[0], rtol=1e-5)
    assert not jnp.any(jax.grad(lambda x: jnp.sum(alone(x)))(latents))
