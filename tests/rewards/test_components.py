"""What a reward made of rewards says of each: names, values, and no gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.rewards import (
    AbstractReward,
    as_reward,
    check_scores,
    Clipped,
    Negated,
    Normalized,
    PerPrompt,
    RewardError,
    Scores,
    Thresholded,
    WeightedSum,
)

from ..helpers import assert_close


IMAGES = jr.uniform(jr.key(0), (4, 3, 2, 3))
ROWS = {"prompt": ["a", "b", "c", "d"], "shade": np.arange(4.0)}


def _red(images):
    return jnp.mean(images[..., 0], axis=(1, 2))


def _shade(images, rows):
    return rows["shade"] * jnp.mean(images, axis=(1, 2, 3))


RED, SHADE = _red(IMAGES), _shade(IMAGES, {"shade": jnp.arange(4.0)})
SUM = WeightedSum([_red, _shade], [2.0, -1.0], ["red", "shade"])


def _judge(reward):
    return eqx.filter_jit(reward.judge)(IMAGES, reward.prepare(ROWS))


def test_each_reward_of_a_sum_unweighted():
    scores = _judge(SUM)
    assert_close(scores, Scores(2 * RED - SHADE, {"red": RED, "shade": SHADE}))
    assert_close(SUM(IMAGES, SUM.prepare(ROWS)), scores.total)
    assert _judge(WeightedSum([_red, _shade], [2.0, -1.0])).components == {}
    assert _judge(as_reward(_red)).components == {}


@pytest.mark.parametrize(
    ("wrap", "change"),
    [
        (Negated, lambda x: -x),
        (lambda r: Normalized(r, mean=0.5, std=2), lambda x: (x - 0.5) / 2),
        (lambda r: Clipped(r, maximum=0.1), lambda x: jnp.minimum(x, 0.1)),
        (lambda r: Thresholded(r, 0.1), lambda x: jnp.minimum(x - 0.1, 0.0)),
        (lambda r: WeightedSum([r], [3.0]), lambda x: 3 * x),
    ],
)
def test_what_is_within_is_said(wrap, change):
    scores = _judge(wrap(SUM))
    assert_close(scores.total, change(2 * RED - SHADE))
    assert_close(scores.components, {"red": RED, "shade": SHADE})


def test_a_sum_in_a_sum():
    both = _judge(WeightedSum([Negated(SUM), _red], [1.0, 1.0], ["inner", "red"]))
    total = SHADE - 2 * RED
    within = {"inner": total, "inner/red": RED, "inner/shade": SHADE, "red": RED}
    assert_close(both.components, within)
    assert _judge(PerPrompt([SUM, _red], lambda prompt: 0)).components == {}


def test_components_pass_no_gradient():
    features = SUM.prepare(ROWS)
    parts = lambda x: sum(map(jnp.sum, SUM.judge(x, features).components.values()))
    assert not jnp.any(jax.grad(parts)(IMAGES))


def test_scores_are_taken_for_the_array_of_the_total():
    scores = Scores(RED, {"shade": SHADE})
    assert_close(jnp.std(scores), jnp.std(RED))
    assert_close(scores - jnp.mean(scores), RED - jnp.mean(RED))
    np.testing.assert_array_equal(np.asarray(scores), RED)


class _Averaged(AbstractReward):
    """Says one number for all images of its component."""

    def __call__(self, images, features=None):
        return _red(images)

    def judge(self, images, features=None):
        return Scores(self(images), {"red": jnp.mean(self(images))})


def test_error_texts():
    for names in (["a"], "ab", ["a", ""]):
        with pytest.raises(ValueError, match="`names` must be None or one word for ea"):
            WeightedSum([_red, _shade], [1.0, 1.0], names)
    with pytest.raises(ValueError, match="`names` must be different .* 'a' more than"):
        WeightedSum([_red, _shade], [1.0, 1.0], ["a", "a"])
    spec = jax.ShapeDtypeStruct(IMAGES.shape, jnp.float32)
    twice = WeightedSum([SUM, SUM], [1.0, 1.0])
    with pytest.raises(ValueError, match="`names` must be different .* 'red' more"):
        check_scores(twice, spec, twice.prepare(ROWS))
    with pytest.raises(RewardError, match=r"in every component.* got \(\) in 'red'"):
        check_scores(_Averaged(), spec, None)
