"""Rewards whose weights are float16 pass gradients on to images, however small."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.finetuning.rounds._critic import CorrectedReward
from draftx.rewards import AbstractReward

from ..helpers import relative_error
from ..toys import BASE, toy_episode, toy_noise, ToyDenoiser


class _Judge(AbstractReward):
    """Computes in the dtype of its weight, as published rewards do."""

    weight: jax.Array

    def __call__(self, images, features=None):
        del features
        low = images.astype(self.weight.dtype)
        return jnp.mean(jnp.tanh(low @ self.weight), axis=(1, 2))


def _gradient(score, images):
    return jax.grad(lambda x: 1e-9 * jnp.sum(score(x).astype(jnp.float32)))(images)


@pytest.mark.parametrize("images_at_once", [None, 1])
def test_gradient_of_a_float16_reward(images_at_once):
    weight = jnp.asarray([0.5, -1.0, 2.0], jnp.float16)
    denoiser, noise = ToyDenoiser(jnp.asarray(BASE, jnp.float32)), toy_noise()

    def gradient(weight):
        episode = toy_episode(
            denoiser, noise, reward=_Judge(weight), images_at_once=images_at_once
        )
        return _gradient(episode.rewards, noise)

    expected = gradient(weight.astype(jnp.float32))
    assert np.any(expected)
    assert relative_error(gradient(weight), expected) < 3e-3


def test_gradient_of_a_critic_of_a_float16_reward(getkey):
    weight, images = jnp.asarray([0.5, -1.0, 2.0], jnp.float16), toy_noise()

    def gradient(weight):
        critic = CorrectedReward(_Judge(weight), width=2, key=getkey())
        critic = eqx.tree_at(lambda c: c.out, critic, jnp.zeros(2))
        return _gradient(lambda x: critic(x, None, jnp.ones(())), images)

    expected = gradient(weight.astype(jnp.float32))
    assert relative_error(gradient(weight), expected) < 3e-3
