"""Rewards without a gradient are known before anything long is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.rewards import AbstractReward, as_reward, check_differentiable


_IMAGES = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float32)


def _check(reward, features=None):
    check_differentiable(as_reward(reward), _IMAGES, features)


def _mean(images):
    return jnp.mean(images, axis=(1, 2, 3))


def _on_host(images):
    shape = jax.ShapeDtypeStruct(images.shape[:1], jnp.float32)
    score = lambda x: np.asarray(x).mean((1, 2, 3), dtype=np.float32)
    return jax.pure_callback(score, shape, images)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda x: _mean(jnp.round(255 * x)), "nothing differentiable leads"),
        (lambda x: _mean((x > 0.5).astype(jnp.float32)), "nothing differentiable"),
        (lambda x: _mean(jax.lax.stop_gradient(x)), "nothing differentiable"),
        (jax.jit(lambda x: _mean(jnp.floor(x))), "nothing differentiable"),
        (lambda x: jnp.zeros(x.shape[0]), "nothing differentiable"),
        (_on_host, "it has none: .*callback"),
        (lambda x: _mean(x + jax.lax.stop_gradient(1 - x) - x), "zero in every pixel"),
        (lambda x: jax.nn.relu(_mean(x) - 2), "zero in every pixel"),
    ],
)
def test_rewards_without_a_gradient_are_sent_to_ddpo(reward, message):
    with pytest.raises(draftx.RewardError, match=f"{message}.*DDPO"):
        _check(reward)


def test_not_finite_is_not_finite():
    with pytest.raises(draftx.RewardError, match="finite scores; got .*nan"):
        _check(lambda x: _mean(x) * jnp.nan)


def test_a_pixel_that_counts_is_enough():
    seen = []

    def reward(images):
        seen.append(images.shape[0])
        return jnp.where(_mean(images) > 2, 0, images[:, 3, 2, 1])

    _check(reward)
    assert set(seen) == {2}  # Not the whole batch.


class _ToReferences(AbstractReward):
    """Takes as many images as it has references, and looks at features."""

    references: jax.Array

    def __call__(self, images, features=None):
        assert features is not None
        return features[:, 0] - _mean((images - self.references) ** 2)


def test_features_and_batches_of_one_size():
    images = jnp.zeros((4, 1, 1, 3)) + jnp.zeros((1, 16, 16, 1))
    _check(_ToReferences(images), jnp.ones((3, 2)))
