"""Likeness of every image to its own row's reference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx import Table
from draftx.rewards import FeatureDistance, ReferenceSimilarity, WeightedSum

from ..helpers import assert_close
from . import thin


PROMPTS = ["a", "b", "c"]
SIZE = 32


def _images(seed, batch=3, size=SIZE):
    values = np.random.default_rng(seed).uniform(size=(batch, size, size, 3))
    return np.asarray(values, np.float32)


def _table(references, column="reference"):
    return Table.of({"prompt": PROMPTS, column: references})


_DISTANCES = {
    "pixels": lambda: None,
    "lpips": lambda: thin.lpips(),
    "features": lambda: FeatureDistance(lambda x: jnp.mean(x, axis=(1, 2)), "l2"),
}


@pytest.mark.parametrize("name", _DISTANCES)
def test_it_is_minus_the_distance_to_the_own_reference(name):
    reward = ReferenceSimilarity(_DISTANCES[name]())
    images, references = jnp.asarray(_images(0)), _images(1)
    features = reward.prepare(_table(references))
    assert all(len(x) == 3 for x in jax.tree.leaves(features))
    score = eqx.filter_jit(reward)
    scores = score(images, features)
    distance = eqx.filter_jit(reward.distance)
    expected = -distance(images, jnp.asarray(references))
    assert_close(scores, expected)
    if name == "pixels":
        assert_close(
            scores, -jnp.mean((images - jnp.asarray(references)) ** 2, axis=(1, 2, 3))
        )
    # Rows are drawn together with their images.
    drawn = jnp.asarray([2, 0])
    of_drawn = jax.tree.map(lambda x: x[drawn], features)
    assert_close(score(images[drawn], of_drawn), expected[drawn])
    # At its reference an image scores the most.
    assert_close(score(jnp.asarray(references), features), jnp.zeros(3))


def test_more_references_than_a_network_is_given_at_once():
    reward = ReferenceSimilarity(thin.lpips())
    references = _images(2, batch=19)
    rows = {"prompt": [f"{i}" for i in range(19)], "reference": references}
    features = reward.prepare(rows)
    whole = eqx.filter_jit(reward.distance.features)(jnp.asarray(references))
    assert_close(features.features, whole)


@pytest.mark.parametrize("name", _DISTANCES)
def test_the_gradient_pulls_each_image_to_its_own_reference(name):
    reward = ReferenceSimilarity(_DISTANCES[name]())
    images, references = jnp.asarray(_images(0)), _images(1)
    features = reward.prepare(_table(references))
    score = eqx.filter_jit(reward)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(reward(x, features))))(images)
    step = 1e-4 * gradient / jnp.max(jnp.abs(gradient))
    assert jnp.all(score(images + step, features) > score(images, features))
    if name == "pixels":
        expected = -2 * (images - jnp.asarray(references)) / (SIZE * SIZE * 3)
        assert_close(gradient, expected)


def test_in_a_sum_and_with_another_column():
    own = ReferenceSimilarity(column="target")
    reward = WeightedSum([own, lambda images: images[:, 0, 0, 0]], [2.0, 1.0])
    images = jnp.asarray(_images(0))
    table = _table(_images(1), "target")
    scores = reward(images, reward.prepare(table))
    assert_close(scores, 2 * own(images, own.prepare(table)) + images[:, 0, 0, 0])


def test_error_texts():
    reward = ReferenceSimilarity()
    with pytest.raises(ValueError, match=r"the column 'reference'.* got \['prompt'\]"):
        reward.prepare(PROMPTS)
    with pytest.raises(ValueError, match="'reference' where it says 'refrence'"):
        reward.prepare(_table(_images(1), "refrence"))
    with pytest.raises(ValueError, match="the column 'a', .* got .*'reference'"):
        ReferenceSimilarity(column="a").prepare(_table(_images(1)))
    with pytest.raises(
        ValueError, match=r"`prompts\['reference'\]` must be images .* Divide"
    ):
        reward.prepare(_table(np.zeros((3, 8, 8, 3), np.uint8)))
    with pytest.raises(ValueError, match="must have the axes batch, height"):
        reward.prepare(_table(np.zeros((3, 8), np.float32)))
    with pytest.raises(ValueError, match="`features` must be what `ReferenceSimil"):
        reward(jnp.asarray(_images(0)))


@pytest.mark.parametrize("name", ["pixels", "lpips"])
def test_another_size_error_text(name):
    reward = ReferenceSimilarity(_DISTANCES[name]())
    features = reward.prepare(_table(_images(1, size=2 * SIZE)))
    with pytest.raises(ValueError, match="images of the size .* Resize the references"):
        reward(jnp.asarray(_images(0)), features)
    with pytest.raises(ValueError, match="one for each row"):
        reward(jnp.asarray(_images(0, batch=2)), reward.prepare(_table(_images(1))))


def test_of_another_size_even_if_it_is_resized_afterwards():
    half = FeatureDistance(lambda x: x, preprocess=lambda x: x[:, :8, :8])
    reward = ReferenceSimilarity(half)
    features = reward.prepare(_table(_images(1, size=2 * SIZE)))
    with pytest.raises(ValueError, match="drawn, 32x32; got 64x64. Resize"):
        reward(jnp.asarray(_images(0)), features)


def test_references_and_parts_that_cannot_be_are_named():
    references = _images(1)
    references[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"must be finite .* that are not: \[2\]"):
        ReferenceSimilarity().prepare(_table(references))
    with pytest.raises(ValueError, match="`distance` must be an AbstractDistance"):
        ReferenceSimilarity(lambda x, y: x)
    with pytest.raises(ValueError, match="`degrade` must be None or a function"):
        ReferenceSimilarity(degrade=4)
