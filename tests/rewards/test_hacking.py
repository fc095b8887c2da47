"""Against the collapse to one image: dropout in a reward, images unlike each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.rewards import (
    AestheticDropout,
    BatchDissimilarity,
    FeatureDistance,
    Negated,
    RotationAntiCorrelation,
    WeightedSum,
    with_key,
)

from ..helpers import assert_close
from . import thin


PLAIN = thin.case("aesthetic").reward


def _images(seed=0, batch=4, size=20):
    values = np.random.default_rng(seed).random((batch, size, size, 3), np.float32)
    return jnp.asarray(values)


@eqx.filter_jit
def _score(reward, images):
    return reward(images)


@eqx.filter_jit
def _score_with_keys(reward, images, keys):
    return jax.lax.map(lambda key: with_key(reward, key)(images), keys)


def test_dropout_is_right_on_average():
    reward = AestheticDropout(PLAIN, rate=0.3, key=jr.key(0))
    images = _images()
    scores = _score_with_keys(reward, images, jr.split(jr.key(1), 4000))
    error = jnp.std(scores, axis=0) / jnp.sqrt(4000.0)
    assert jnp.all(jnp.abs(jnp.mean(scores, 0) - _score(PLAIN, images)) < 4 * error)
    assert jnp.all(error > 0)


def test_the_key_decides():
    images = jnp.repeat(_images(batch=1), 4, axis=0)
    reward = AestheticDropout(PLAIN, rate=0.5, key=jr.key(0))
    scores = _score(reward, images)
    # One image four times: each has a pattern of its own.
    assert len({float(s) for s in scores}) > 1
    assert_close(_score(reward, images), scores)
    assert not jnp.allclose(_score(with_key(reward, jr.key(1)), images), scores)
    none = AestheticDropout(PLAIN, rate=0.0, key=jr.key(0))
    assert_close(_score(none, images), _score(PLAIN, images))


def test_a_key_for_every_reward_that_draws():
    drop = lambda: AestheticDropout(PLAIN, key=jr.key(0))
    total = WeightedSum([drop(), Negated(drop()), PLAIN], [1.0, 2.0, 3.0])
    new = with_key(total, jr.key(1))
    first, second = new.rewards[0].key, new.rewards[1].reward.key
    as_tuple = lambda key: tuple(jr.key_data(key).tolist())
    assert len({as_tuple(k) for k in (jr.key(0), first, second)}) == 3
    rest = lambda r: [r.rewards[0].reward, r.rewards[1].reward.reward, r.rewards[2]]
    assert eqx.tree_equal(rest(new), rest(total))
    plain = lambda images: images.sum()
    assert with_key(plain, jr.key(0)) is plain


@pytest.mark.parametrize("rate", [1.0, -0.1, (), (0.1, 1.0), (0.1,) * 5])
def test_rate_error_text(rate):
    with pytest.raises(ValueError, match=r"`rate` must be a number in \[0, 1\)"):
        AestheticDropout(PLAIN, rate=rate, key=jr.key(0))


def test_pairs_are_those_of_the_reversed_batch():
    images = np.asarray(_images(batch=5, size=6), np.float64)
    scores = _score(BatchDissimilarity(), jnp.asarray(images, jnp.float32))
    pairs = [np.linalg.norm(images[i] - images[4 - i]) for i in range(5)]
    np.testing.assert_allclose(scores, pairs, rtol=1e-5)
    assert scores[2] == 0
    rms = _score(BatchDissimilarity("rms"), jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(rms, np.asarray(pairs) / np.sqrt(108), rtol=1e-5)


def test_distances_of_features():
    images = _images(batch=4, size=32)
    lpips = thin.case("lpips").reward.lpips
    scores = _score(BatchDissimilarity(lpips), images)
    expected = eqx.filter_jit(lpips)(images, images[::-1])
    assert_close(scores, expected)
    assert scores[0] == scores[3]
    distance = FeatureDistance(lambda x: jnp.mean(x, axis=(1, 2)), "l2")
    colors = np.asarray(jnp.mean(images, axis=(1, 2)))
    expected = np.linalg.norm(colors - colors[::-1], axis=1)
    np.testing.assert_allclose(
        _score(BatchDissimilarity(distance), images), expected, rtol=1e-3
    )


def test_equal_images_have_a_finite_gradient():
    images = jnp.repeat(_images(batch=1, size=6), 4, axis=0)
    gradient = jax.grad(lambda x: jnp.sum(BatchDissimilarity()(x)))(images)
    np.testing.assert_array_equal(gradient, 0)


def test_it_is_a_term_of_a_sum():
    reward = WeightedSum([RotationAntiCorrelation(), BatchDissimilarity()], [1.0, 0.1])
    images = _images(size=6)
    expected = RotationAntiCorrelation()(images) + 0.1 * BatchDissimilarity()(images)
    assert_close(_score(reward, images), expected)


def test_dissimilarity_error_texts():
    with pytest.raises(ValueError, match="must be two at least, .* got 1"):
        BatchDissimilarity()(_images(batch=1))
    with pytest.raises(Exception, match="(?i)type-check|`distance` must be 'l2', 'rms"):
        BatchDissimilarity("l1")  # pyright: ignore
