"""Several noises, weighed by what they lead to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.distillation import (
    AbstractNoiseWeights,
    BestAndWorst,
    distillation_gradient,
    RewardedNoises,
    ScoreDistillation,
    Softmax,
)

from ..helpers import assert_close
from ..toys import toy_reward
from .toys import KEY, params, PROMPTS, render, SAMPLING


_REWARDS = jnp.asarray([[3.0, 0.0], [1.0, 4.0], [jnp.nan, 1.0], [2.0, 3.0]])


def test_best_and_worst_of_every_image():
    weights = BestAndWorst(2, 1, 0.8, 0.2)(_REWARDS)
    # What is not a number is the worst.
    expected = [[0.4, -0.2], [0.0, 0.4], [-0.2, 0.0], [0.4, 0.4]]
    assert_close(weights, jnp.asarray(expected))
    assert_close(BestAndWorst(1, 0, 1.0)(_REWARDS).sum(0), jnp.ones(2))


def test_softmax_of_every_image():
    weights = Softmax(2.0)(_REWARDS[:, 1:])
    expected = np.exp(np.asarray(_REWARDS[:, 1:]) / 2)
    assert_close(weights, jnp.asarray(expected / expected.sum(0)))


class _First(AbstractNoiseWeights):
    """One of one's own: the first noise alone."""

    def __call__(self, rewards):
        return jnp.zeros_like(rewards).at[0].set(1.0)


class _Mean(AbstractNoiseWeights):
    def __call__(self, rewards):
        return jnp.ones_like(rewards) / len(rewards)


def test_the_residual_is_the_weighted_one(short_pipeline):
    """Of the first noise, of all: the latter is the mean of those that are first."""

    def gradient(weights, num_noises):
        noises = RewardedNoises(toy_reward, weights, num_noises, num_steps=1)
        return distillation_gradient(
            short_pipeline,
            render,
            params(),
            PROMPTS,
            SAMPLING,
            key=KEY,
            method=ScoreDistillation(noises=noises),
        )[1]["colors"]

    first, mean = gradient(_First(), 2), gradient(_Mean(), 2)
    best = gradient(BestAndWorst(1, 0, 1.0), 2)
    second = 2 * mean - first
    per_image = lambda x: jnp.abs(best - x).max((1, 2, 3))
    # Each image follows the better of both.
    assert float(jnp.minimum(per_image(first), per_image(second)).max()) < 1e-5
    assert float(jnp.abs(first - second).max()) > 1e-4


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: BestAndWorst(0), "`num_best` must be a whole number of at least 1"),
        (lambda: Softmax(0.0), "`temperature` must be finite and positive"),
        (lambda: RewardedNoises(toy_reward, "best"), "`weights` must be an Abstract"),
        (lambda: RewardedNoises(toy_reward, num_noises=3), "of the `num_noises`, 3"),
        (lambda: RewardedNoises(0.5), "`reward` must be a function of images"),
    ],
)
def test_what_is_wrong_is_named(make, text, without_types):
    with pytest.raises(ValueError, match=text):
        make()


def test_their_reward_need_not_be_differentiable(short_pipeline):
    steps = lambda images: jnp.round(10 * jnp.mean(images, axis=(1, 2, 3)))
    noises = RewardedNoises(steps, Softmax(1.0), num_noises=2, num_steps=1)
    _, gradient = distillation_gradient(
        short_pipeline,
        render,
        params(),
        PROMPTS,
        SAMPLING,
        key=KEY,
        method=ScoreDistillation(noises=noises),
    )
    assert np.all(np.isfinite(jax.tree.leaves(gradient)[0]))
