"""Functions as rewards, rewards on the host, and what is said of bad ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx import Table
from draftx.rewards import (
    as_reward,
    check_differentiable,
    check_finite,
    check_scores,
    HostReward,
    Negated,
    probe_host_rewards,
    RewardError,
    WeightedSum,
)

from ..helpers import assert_close


SPEC = jax.ShapeDtypeStruct((4, 8, 6, 3), jnp.float32)
ROWS = {
    "prompt": ["cat", "é", "a  dog ", ""],
    "negative_prompt": ["", "x", "yy", "z"],
    "weight": np.arange(4.0),
}


def _mean(images):
    return jnp.mean(images, axis=(1, 2, 3))


def _weighted(images, rows):
    return rows["weight"] * _mean(images)


@pytest.mark.parametrize(
    ("fn", "takes_rows"),
    [
        (_mean, False),
        (_weighted, True),
        (lambda images, scale=2.0: images, False),
        (lambda images, rows=None: images, True),
        (lambda images, *, other=1: images, False),
    ],
)
def test_the_signature_decides(fn, takes_rows):
    assert as_reward(fn).takes_rows == HostReward(fn).takes_rows == takes_rows


def test_functions_as_rewards():
    images = jnp.full((4, 8, 6, 3), 0.5)
    assert as_reward(_mean).prepare(ROWS) is None
    assert_close(as_reward(_mean)(images), jnp.full(4, 0.5))
    reward = as_reward(_weighted)
    assert as_reward(reward) is reward
    features = reward.prepare(Table.of(ROWS))
    assert set(features) == {"weight"}
    assert_close(reward(images, features), 0.5 * jnp.arange(4.0))
    with pytest.raises(ValueError, match="`features` must be what `prepare` gives"):
        reward(images)


def test_the_host_sees_words_and_numbers():
    seen = []

    def score(images, rows):
        seen.append(rows)
        return [len(p) + w for p, w in zip(rows["prompt"], rows["weight"], strict=True)]

    reward = HostReward(score)
    features = reward.prepare(ROWS)
    drawn = jnp.asarray([2, 1])
    of_drawn = jax.tree.map(lambda x: x[drawn], features)
    scores = jax.jit(lambda x, f: reward(x, f))(jnp.zeros((2, 4, 4, 3)), of_drawn)
    assert_close(scores, jnp.asarray([7 + 2.0, 1 + 1.0]))
    assert seen[-1]["prompt"] == ["a  dog ", "é"]
    assert seen[-1]["negative_prompt"] == ["yy", "x"]
    np.testing.assert_array_equal(seen[-1]["weight"], [2, 1])
    with pytest.raises(ValueError, match="`features` must be what `HostReward.prep"):
        reward(jnp.zeros((2, 4, 4, 3)))
    with pytest.raises(ValueError, match="`fn` must be a function of images, or of im"):
        HostReward(lambda images, rows, more: images)


def test_rewards_on_the_host_are_called_once_before():
    def too_few(images, rows):
        assert images.shape == (6, 8, 6, 3)
        assert rows["prompt"] == ["a", "b"] * 3
        return [0.0]

    reward = WeightedSum([_mean, Negated(HostReward(too_few))], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"`fn` must give one number .* got shape \(1"):
        probe_host_rewards(reward, (6, 8, 6, 3), ["a", "b"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wieght", r"no 'wieght': .*'weight'\]. Did you mean 'weight'\?"),
        # JAX adds lines of its own to an error.
        ("reference", r"no 'reference': .* one of `prompts`.*'weight'\]\.(\n|$)"),
    ],
)
def test_columns_that_are_not_there_are_named(name, message):
    read = lambda images, rows: rows[name] * images.mean((1, 2, 3))
    reward = as_reward(read)
    with pytest.raises(RewardError, match=message):
        check_scores(reward, SPEC, reward.prepare(ROWS))
    with pytest.raises(RewardError, match=message):
        probe_host_rewards(HostReward(read), SPEC.shape, ROWS)


def test_words_are_for_the_host_and_other_keys_are_others():
    reward = as_reward(lambda images, rows: rows["prompt"])
    with pytest.raises(
        RewardError, match=r"found no 'prompt'.*HostReward\(fn\)` alone"
    ):
        check_scores(reward, SPEC, reward.prepare(ROWS))
    for key in ("weight", 3):
        reward = as_reward(lambda images, rows, key=key: {}[key])
        with pytest.raises(KeyError, match=str(key)):
            check_scores(reward, SPEC, reward.prepare(ROWS))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda x: jnp.mean(x),
            r"one score .* shape \(4,\) .* got \(\). Do not average",
        ),
        (
            lambda x: jnp.argmax(_mean(x)[:, None], axis=1),
            "floating-point .* got int32",
        ),
    ],
)
def test_wrong_scores_error_texts(fn, message):
    with pytest.raises(RewardError, match=message):
        check_scores(as_reward(fn), SPEC, None)


def test_good_scores_pass():
    for fn in (_mean, _weighted):
        reward = as_reward(fn)
        features = reward.prepare({"prompt": ["a", "b"], "weight": [1.0, 2.0]})
        check_scores(reward, SPEC, features)
        check_differentiable(reward, SPEC, features)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: _mean(jnp.round(x)), "nothing differentiable leads"),
        (lambda x: jnp.minimum(_mean(x), -1.0), "zero in every pixel of an image of n"),
        (HostReward(lambda x: x.mean((1, 2, 3))), "it has none: .*callback"),
        (lambda x: _mean(x) / 0, "must give finite scores; got"),
    ],
)
def test_no_gradient_error_texts(fn, message):
    reward = as_reward(fn)
    with pytest.raises(RewardError, match=message):
        check_differentiable(reward, SPEC, reward.prepare(["a"]))


def test_finite_scores():
    check_finite(jnp.ones(2))
    with pytest.raises(RewardError, match=r"must give finite scores; got \[1.0, nan\]"):
        check_finite(np.asarray([1.0, np.nan]))
