import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx import Table
from draftx.rewards import (
    AbstractReward,
    Clipped,
    Negated,
    Normalized,
    PerPrompt,
    Thresholded,
    WeightedSum,
)

from ..helpers import assert_close


class _Mean(AbstractReward):
    """The mean of one channel."""

    channel: int = eqx.field(static=True)

    def __call__(self, images, features=None):
        assert features is None
        return jnp.mean(images[..., self.channel], axis=(1, 2))


class _Length(AbstractReward):
    """The mean of all channels times the length of the prompt."""

    def prepare(self, rows):
        return jnp.asarray([float(len(p)) for p in Table.of(rows).prompts])

    def __call__(self, images, features=None):
        return features * jnp.mean(images, axis=(1, 2, 3))


RED, BLUE, LENGTH = _Mean(0), _Mean(2), _Length()
PROMPTS = ["cat", "a", "dog!", ""]


@pytest.fixture
def images(getkey):
    return jr.uniform(getkey(), (4, 3, 2, 3))


def test_weighted_sum(images):
    reward = WeightedSum([RED, LENGTH, BLUE], [1, -2.0, 0.5])
    rows = reward.prepare(PROMPTS)
    expected = RED(images) - 2 * LENGTH(images, rows[1]) + 0.5 * BLUE(images)
    assert_close(eqx.filter_jit(reward)(images, rows), expected)
    # Rows of all rewards are drawn together.
    drawn = jax.tree.map(lambda x: x[jnp.asarray([2, 0])], rows)
    assert_close(
        reward(images[:2], drawn)[1:], reward(images[1:2], reward.prepare(PROMPTS[:1]))
    )
    # Weights are data.
    assert_close(jax.tree.leaves(reward), [jnp.asarray([1.0, -2.0, 0.5])])


def test_without_prompts_nothing_is_prepared(images):
    reward = WeightedSum([RED, Negated(BLUE)], [1.0, 1.0])
    assert reward.prepare(PROMPTS) is None
    assert_close(reward(images), RED(images) - BLUE(images))


def test_one_reward_changed(images):
    rows = LENGTH.prepare(PROMPTS)
    score = LENGTH(images, rows)
    assert_close(Negated(LENGTH)(images, rows), -score)
    normalized = Normalized(LENGTH, mean=0.5, std=4)
    assert_close(normalized(images, normalized.prepare(PROMPTS)), (score - 0.5) / 4)
    clipped = Clipped(LENGTH, minimum=0.3, maximum=1.5)
    assert_close(clipped(images, clipped.prepare(PROMPTS)), jnp.clip(score, 0.3, 1.5))
    hinge = Thresholded(LENGTH, 1.0)
    expected = -jax.nn.relu(1.0 - score)
    assert_close(hinge(images, hinge.prepare(PROMPTS)), expected)


def test_there_is_no_gradient_beyond_the_bounds():
    images = jnp.broadcast_to(
        jnp.asarray([0.1, 0.5, 0.9])[:, None, None, None], (3, 2, 2, 3)
    )
    slopes = lambda r: jax.grad(lambda x: jnp.sum(r(x)))(images).sum(axis=(1, 2, 3))
    assert_close(slopes(RED), jnp.ones(3))
    assert_close(slopes(Thresholded(RED, 0.4)), jnp.asarray([1.0, 0.0, 0.0]))
    assert_close(slopes(Clipped(RED, maximum=0.4)), jnp.asarray([1.0, 0.0, 0.0]))
    assert_close(slopes(Clipped(RED, minimum=0.4)), jnp.asarray([0.0, 1.0, 1.0]))


def test_a_reward_for_each_prompt(images):
    reward = PerPrompt([RED, LENGTH], lambda prompt: int("!" in prompt))
    rows = reward.prepare(PROMPTS)
    score = eqx.filter_jit(reward)(images, rows)
    expected = RED(images).at[2].set(4 * jnp.mean(images[2]))
    assert_close(score, expected)
    gradient = jax.grad(lambda x: jnp.sum(reward(x, rows)))(images)
    assert jnp.all(gradient[0, ..., 1] == 0)
    assert jnp.all(gradient[2] > 0)


def _red(images):
    return jnp.mean(images[..., 0], axis=(1, 2))


def _brightness_wanted(images, rows):
    return rows["brightness"] * jnp.mean(images, axis=(1, 2, 3))


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (lambda r: WeightedSum([LENGTH, r], [0.0, 1.0]), lambda x: x),
        (Negated, lambda x: -x),
        (lambda r: Normalized(r, mean=0.5, std=2), lambda x: (x - 0.5) / 2),
        (lambda r: Clipped(r, maximum=0.6), lambda x: jnp.minimum(x, 0.6)),
        (lambda r: Thresholded(r, 0.6), lambda x: jnp.minimum(x - 0.6, 0.0)),
        (lambda r: PerPrompt([LENGTH, r], lambda prompt: 1), lambda x: x),
    ],
)
def test_any_function_is_a_reward(wrap, expected, images):
    """Of images, or of images and their rows, however deep it is."""
    table = Table.of({"prompt": PROMPTS, "brightness": np.arange(1.0, 5.0)})
    brightness = {"brightness": jnp.arange(1.0, 5.0)}
    of_rows = _brightness_wanted(images, brightness)
    for fn, scores in ((_red, _red(images)), (_brightness_wanted, of_rows)):
        reward = wrap(Negated(Negated(fn)))
        features = reward.prepare(table)
        assert_close(eqx.filter_jit(reward)(images, features), expected(scores))
        # Features have one row for each of the table.
        drawn = jax.tree.map(lambda x: x[jnp.asarray([3, 0])], features)
        again = reward(images[jnp.asarray([3, 0])], drawn)
        assert_close(again, expected(scores)[jnp.asarray([3, 0])])


def test_error_texts(images):
    with pytest.raises(
        ValueError, match="`rewards` must be one reward or more.* got none"
    ):
        WeightedSum([], [])
    with pytest.raises(ValueError, match="`weights` must have one .* got 1 for 2"):
        WeightedSum([RED, BLUE], [1.0])
    with pytest.raises(ValueError, match="`WeightedSum.prepare` gives"):
        WeightedSum([RED, BLUE], [1.0, 1.0])(images, jnp.zeros(4))
    with pytest.raises(ValueError, match="`std` must be positive; got -1"):
        Normalized(RED, std=-1)
    with pytest.raises(ValueError, match="`minimum` or `maximum` must be a number"):
        Clipped(RED)
    with pytest.raises(ValueError, match="`minimum` must be less than `maximum`"):
        Clipped(RED, minimum=1.0, maximum=0.0)
    with pytest.raises(ValueError, match="index from 0 to 0; got 3 for 'cat'"):
        PerPrompt([RED], len).prepare(PROMPTS)
    with pytest.raises(ValueError, match="`PerPrompt.prepare` gives"):
        PerPrompt([RED], len)(images)
