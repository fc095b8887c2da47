"""Soft counts towards a wanted number: any counter, and OWL-ViT's boxes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.judges import ObjectCounter
from draftx.models import checkpoint_arrays
from draftx.rewards import CountReward, DetectedCount
from draftx.rewards.perception._detected_count import (
    intersection_over_union,
    soft_count,
)

from ..goldens import make_owlvit
from ..helpers import assert_close
from . import thin


def light(images):
    """How much light there is, in tenths."""
    return 10 * jnp.mean(images, axis=(1, 2, 3))


IMAGES = jnp.stack([jnp.full((4, 4, 3), level) for level in (0.1, 0.2, 0.3)])


def test_counts_are_scored_by_how_far_off_they_are():
    assert_close(CountReward(light, 2)(IMAGES), jnp.asarray([-1.0, 0.0, -1.0]))
    squared = CountReward(light, 3, distance="squared")
    assert_close(squared(IMAGES), jnp.asarray([-4.0, -1.0, 0.0]))
    # What the counter takes is made of the images first.
    halved = CountReward(light, 1, preprocess=lambda images: images / 2)
    assert_close(halved(IMAGES), jnp.asarray([-0.5, 0.0, -0.5]))
    assert CountReward(light, 0).prepare(["a fox"]) is None


def test_every_row_has_its_number():
    reward = CountReward(light, column="foxes")
    table = draftx.Table({"prompt": ["a", "b", "c"], "foxes": [1, 4, 2.5]})
    wanted = reward.prepare(table)
    assert_close(reward(IMAGES, wanted), jnp.asarray([0.0, -2.0, -0.5]))
    slope = jax.grad(lambda x: jnp.sum(reward(x, wanted)))(IMAGES)
    # More light where there is too little, less where there is too much.
    assert jnp.all(slope[1] > 0)
    assert jnp.all(slope[2] < 0)


@pytest.mark.parametrize("make", [CountReward, DetectedCount])
def test_what_cannot_be_counted_is_said(make):
    parts = (light,) if make is CountReward else _parts()
    queries = () if make is CountReward else (["lin"],)
    name = make.__name__
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match="`count` must be finite and not negative"):
            make(*parts, *queries, wrong)
    with pytest.raises(ValueError, match="`distance` must be one of 'absolute', 'squa"):
        make(*parts, *queries, 3, distance="cubed")
    reward = make(*parts, *queries)
    with pytest.raises(ValueError, match=f"column 'count'.* `{name}` without `count`"):
        reward.prepare(["three foxes"])
    with pytest.raises(ValueError, match="Did you mean 'count' where it says 'counts'"):
        reward.prepare({"prompt": ["three foxes"], "counts": [3]})
    for wrong, got in (
        ([-1.0], "-1"),
        ([np.inf], "inf"),
        ([[1, 2]], r"shape \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=f"at least 0 for each row.* got {got}"):
            reward.prepare({"prompt": ["a"], "count": wrong})
    images = jnp.full((2, 12, 12, 3), 0.5)
    with pytest.raises(ValueError, match=f"`{name}.prepare` gives.* got NoneType"):
        reward(images)
    one = reward.prepare({"prompt": ["a"], "count": [1]})
    with pytest.raises(ValueError, match=r"each of the 2 images; got \(1,\)"):
        reward(images, one)


def test_the_counter_reads_its_sizes_and_sees_all_of_an_image():
    counter = thin.random_model(ObjectCounter, channels=(8, 16), num_blocks=1)
    arrays = checkpoint_arrays(counter)
    again = ObjectCounter.from_arrays(arrays)
    images = thin.image(16)
    density = eqx.filter_jit(counter.density)(images)
    assert density.shape == (1, 4, 4)
    assert jnp.all(density > 0)
    assert_close(eqx.filter_jit(again)(images), jnp.sum(density, axis=(1, 2)))
    with pytest.raises(ValueError, match="'downs.0.weight' is missing"):
        ObjectCounter.from_arrays({})
    with pytest.raises(ValueError, match=r"1 missing \(density_head.bias\)"):
        ObjectCounter.from_arrays(
            {k: x for k, x in arrays.items() if k != "density_head.bias"}
        )


def _boxes(*corners):
    """Boxes by left, top, right and bottom."""
    low, high = np.split(np.asarray(corners, np.float32), 2, axis=1)
    return jnp.asarray(np.concatenate([(low + high) / 2, high - low], axis=1))


def test_overlaps_of_boxes():
    overlaps = intersection_over_union(
        _boxes((0, 0, 2, 2), (1, 0, 3, 2), (0, 0, 1, 1), (5, 5, 6, 6))
    )
    expected = [[1, 1 / 3, 1 / 4, 0], [1 / 3, 1, 0, 0], [1 / 4, 0, 1, 0], [0, 0, 0, 1]]
    assert_close(overlaps, jnp.asarray(expected))
    # A box of no area is in nothing, and has a finite gradient.
    point = jnp.asarray([[0.5, 0.5, 0.0, 0.0]] * 2)
    slope = jax.grad(lambda b: jnp.sum(intersection_over_union(b)))(point)
    assert jnp.all(jnp.isfinite(slope))


def test_boxes_that_are_the_same_count_once_and_boxes_apart_each():
    presence = jnp.asarray([0.9, 0.6, 0.3])
    count = lambda boxes: soft_count(presence, boxes, 0.5, 0.02)
    same = _boxes(*[(0.1, 0.1, 0.3, 0.3)] * 3)
    np.testing.assert_allclose(count(same), 1 - 0.1 * 0.4 * 0.7, rtol=1e-5)
    apart = _boxes((0, 0, 0.1, 0.1), (0.4, 0.4, 0.5, 0.5), (0.8, 0, 0.9, 0.1))
    np.testing.assert_allclose(count(apart), 1.8, rtol=1e-5)
    # Whatever the order in which they come.
    mixed = jnp.concatenate([same[:2], apart[2:]])
    swapped = soft_count(presence[::-1], mixed[::-1], 0.5, 0.02)
    assert_close(count(mixed), swapped)
    np.testing.assert_allclose(swapped, 0.96 + 0.3, rtol=1e-5)


def test_cold_counts_are_those_of_greedy_suppression():
    rng = np.random.default_rng(0)
    for _ in range(20):
        # Clusters around places that are far apart: no chains.
        places = rng.permutation(9)[: rng.integers(1, 6)]
        corners = []
        for place in places:
            for _ in range(rng.integers(1, 4)):
                left, top = np.divmod(place, 3) + 0.05 * rng.random(2)
                corners.append((left, top, left + 0.6, top + 0.6))
        presence = jnp.asarray(0.99 + 0.01 * rng.random(len(corners)), jnp.float32)
        count = soft_count(presence, _boxes(*corners), 0.5, 0.01)
        assert abs(count - len(places)) < 0.1


def test_derivatives_of_counts_are_finite_differences():
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        presence = jnp.asarray(rng.random(7))
        boxes = jnp.asarray(rng.uniform(0.2, 0.6, (7, 4)))
        count = jax.jit(lambda args: soft_count(*args, 0.3, 0.1))
        gradient = jax.jit(jax.grad(count))((presence, boxes))
        for _ in range(5):
            ways = jnp.asarray(rng.normal(size=7)), jnp.asarray(rng.normal(size=(7, 4)))
            ahead, behind = (
                count((presence + h * ways[0], boxes + h * ways[1]))
                for h in (1e-6, -1e-6)
            )
            expected = sum(jnp.sum(g * d) for g, d in zip(gradient, ways, strict=True))
            np.testing.assert_allclose((ahead - behind) / 2e-6, expected, rtol=1e-6)


def _parts():
    detection = thin.case("detection").reward
    return detection.model, detection.tokenizer


def _plain_count(logits, boxes, threshold, temperature, overlap, overlap_temperature):
    """The formula, one box after the other."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    presence = sigmoid((logits - np.log(threshold / (1 - threshold))) / temperature)
    order, total = np.argsort(-presence), 0.0
    for i, b in enumerate(order):
        left = 1.0
        for c in order[:i]:
            sides = [
                min(
                    boxes[b, k] + boxes[b, k + 2] / 2, boxes[c, k] + boxes[c, k + 2] / 2
                )
                - max(
                    boxes[b, k] - boxes[b, k + 2] / 2, boxes[c, k] - boxes[c, k + 2] / 2
                )
                for k in (0, 1)
            ]
            both = max(sides[0], 0) * max(sides[1], 0)
            areas = np.prod(boxes[b, 2:]) + np.prod(boxes[c, 2:])
            ratio = both / (areas - both)
            left *= 1 - presence[c] * sigmoid((ratio - overlap) / overlap_temperature)
        total += presence[b] * left
    return total


def test_counts_of_a_detector_are_those_of_its_boxes():
    with np.load(make_owlvit.PATH) as file:
        images = jnp.asarray(file["in/images"])
    options = dict(threshold=0.4, temperature=0.5, overlap=0.3, overlap_temperature=0.2)
    reward = DetectedCount(*_parts(), ["a bad", "lin"], 2, **options)
    counts, scores = eqx.filter_jit(lambda r, x: (r.counts(x), r(x)))(reward, images)
    found = eqx.filter_jit(reward.detection.detect)(images)
    expected = [
        _plain_count(np.max(logits, -1, initial=-np.inf), boxes, *options.values())
        for logits, boxes in zip(*map(np.float64, found), strict=True)
    ]
    np.testing.assert_allclose(counts, expected, rtol=1e-4)
    np.testing.assert_allclose(scores, -np.abs(np.subtract(expected, 2)), rtol=1e-3)


def test_each_image_may_have_its_queries_and_its_number():
    queries = {"red": ["a bad", "lin"], "blue": ["lin"]}
    options = dict(threshold=0.4, overlap=0.9)
    reward = DetectedCount(*_parts(), queries, **options)
    images = jnp.concatenate([thin.image(16), 1 - thin.image(16)])
    features = reward.prepare({"prompt": ["red", "blue"], "count": [2, 1]})
    scores = eqx.filter_jit(reward)(images, features)
    for i, (prompt, wanted) in enumerate((("red", 2), ("blue", 1))):
        one = DetectedCount(*_parts(), queries[prompt], wanted, **options)
        assert one.prepare([prompt]) is None
        assert_close(eqx.filter_jit(one)(images)[i], scores[i])


def test_steps_along_the_gradient_come_nearer_to_the_number():
    options = dict(threshold=0.4, temperature=1.0, overlap=0.9)
    images = thin.image(16)
    for wanted in (0, 50):
        reward = DetectedCount(*_parts(), ["a bad"], wanted, **options)
        score = eqx.filter_jit(
            eqx.filter_value_and_grad(lambda x, r=reward: jnp.sum(r(x)))
        )
        before, slope = score(images)
        after, _ = score(images + 1e-2 * jnp.sign(slope))
        assert after > before


def test_a_counter_must_count_each_image(without_types):
    reward = CountReward(lambda images: images.mean(), 3)
    with pytest.raises(ValueError, match=r"of shape \(2,\); got \(\)"):
        reward(jnp.zeros((2, 8, 8, 3)))
    with pytest.raises(ValueError, match="`counter` must be a function"):
        CountReward(None, 3)
    with pytest.raises(ValueError, match="`column` must be a str"):
        CountReward(lambda images: images.mean((1, 2, 3)), column=3)
