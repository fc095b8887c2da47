import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import DDIM, random_steps, run_truncated, SchedulerConfig

from ...helpers import relative_error
from ...toys import toy_episode, toy_noise, toy_reward, ToyDenoiser, WEIGHT


def test_score_function_meets_finite_differences_of_the_expected_reward():
    # One step from fixed noise: the expectation is over that step's noise alone. Both
    # are means over the same draws, which differ in what they average.
    sampler = DDIM(SchedulerConfig(set_alpha_to_one=False, steps_offset=700))
    batch, weight = 40_000, jnp.asarray(WEIGHT, jnp.float32)
    start = jnp.broadcast_to(toy_noise(1), (batch, 2, 2, 3))
    reward = lambda images: jnp.sum(images[:, 0, 0], axis=-1)

    def episode(weight):
        toy = ToyDenoiser(weight)
        return toy_episode(toy, start, total=1, reward=reward, sampler=sampler)

    method, key = draftx.ScoreFunction(), jr.key(0)
    assert random_steps(sampler, 1, 1.0).tolist() == [0]

    @jax.jit
    def expected(weight):
        made, steps = episode(weight), sampler.steps(1, eta=1.0)
        chain = dataclasses.replace(made.chain, steps=steps, key=key)
        return made.score(run_truncated(chain, made.noise))[0]

    run = jax.jit(jax.value_and_grad(lambda w: method(episode(w), key), has_aux=True))
    (value, rewards), gradient = run(weight)
    np.testing.assert_allclose(value, jnp.mean(rewards), rtol=1e-5)
    np.testing.assert_allclose(value, expected(weight), rtol=1e-5)
    numeric = jnp.asarray(
        [(expected(weight + d) - expected(weight - d)) / 0.2 for d in 0.1 * jnp.eye(3)]
    )
    assert relative_error(gradient, numeric) < 0.1
    assert float(jnp.linalg.norm(numeric)) > 0.01


def test_score_function_does_not_touch_the_reward():
    def host(images):
        return np.asarray(images).mean((1, 2, 3)).round(2)

    reward = draftx.rewards.HostReward(host)
    weight = jnp.asarray(WEIGHT, jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(weight):
        toy, noise = ToyDenoiser(weight), toy_noise(4)
        episode = toy_episode(toy, noise, total=3, reward=reward, images_at_once=2)
        return draftx.ScoreFunction(normalize=True)(episode, jr.key(0))[0]

    assert jnp.all(jnp.isfinite(gradient(weight)))
    assert jnp.any(gradient(weight) != 0)


def test_the_value_is_the_mean_reward_however_large_the_densities_are():
    noise = jr.normal(jr.key(4), (4, 32, 32, 3))
    toy = ToyDenoiser(jnp.asarray(WEIGHT, jnp.float32))
    # Not compiled as one, which may or may not see that two terms are the same.
    value, rewards = draftx.ScoreFunction()(
        toy_episode(toy, noise, reward=_centred), jr.key(0)
    )
    rewards = np.asarray(rewards, np.float64)
    # 2e-6 of them if the densities' part were added before it is taken off.
    assert abs(float(value) - rewards.mean()) < 2e-7 * np.abs(rewards).mean()


def _centred(images):
    return 100 * images.mean((1, 2, 3)) - 50


def test_one_reward_has_no_deviation(pipeline):
    method = draftx.ScoreFunction(normalize=True)
    penalized = draftx.Penalized(method)
    for one in (method, penalized):
        with pytest.raises(ValueError, match="`normalize` must be False for a batch"):
            draftx.reward_gradient(pipeline, toy_reward, ["cat"], method=one)
        with pytest.raises(ValueError, match="`normalize` must be False for a batch"):
            draftx.finetune(
                *(pipeline, toy_reward, ["cat"]),
                method=one,
                key=jr.key(0),
                num_train_steps=1,
                batch_size=1,
            )
    draftx.ScoreFunction().check_batch(1)
