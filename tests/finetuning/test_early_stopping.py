"""Which adapter is the best, when to stop, and how unlike pictures are."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from draftx.finetuning._run import Run

from draftx.finetuning import (
    Budget,
    coarse_pixels,
    diversity,
    EarlyStopping,
    Evaluation,
    square_root_decay,
)


def _evaluations(scores, rewards=None, diversities=None):
    rewards = range(len(scores)) if rewards is None else rewards
    rows: list[dict[str, Any]] = [
        {"step": 5 * i, "score": x} for i, x in enumerate(scores)
    ]
    for row, reward in zip(rows[1:], list(rewards)[1:], strict=True):
        row["train_reward"] = reward
    for row, value in zip(rows, diversities or (), strict=False):
        row["diversity"] = value
    return rows


@pytest.mark.parametrize(
    ("options", "scores", "best", "stops"),
    [
        (dict(patience=2), [0, 1, 2, 3], 3, False),
        (dict(patience=2), [0, 2, 1, 3, 2], 3, False),
        (dict(patience=2), [0, 2, 1, 1.5], 1, True),
        (dict(patience=2), [0, -1, -2], 0, True),
        (dict(patience=1), [0, -1], 0, False),  # No reward to compare with.
        (dict(patience=2, min_delta=2.5), [0, 1, 2], 0, True),
        (dict(patience=2, min_delta=1.5), [0, 1, 2], 2, False),
        (dict(patience=2), [math.nan, 1, math.nan, math.nan], 1, True),
    ],
)
def test_patience_and_delta(options, scores, best, stops):
    stopping, rows = EarlyStopping(**options), _evaluations(scores)
    assert stopping.best(rows) == best
    assert (stopping.reason(rows) is not None) == stops


def test_stops_only_while_the_training_reward_rises():
    rows = _evaluations([0, 3, 2, 1], rewards=[0, 5, 4, 5])
    assert EarlyStopping(patience=2).reason(rows) is None
    reason = EarlyStopping(patience=2, require_rising=False).reason(rows)
    assert reason is not None
    rows[-1]["train_reward"] = 5.5
    reason = EarlyStopping(patience=2).reason(rows)
    assert reason is not None
    assert "from 5 to 5.5" in reason


def test_a_collapse_is_not_the_best():
    rows = _evaluations([0, 1, 2, 3], diversities=[1.0, 0.9, 0.6, 0.1])
    assert EarlyStopping().best(rows) == 3
    assert EarlyStopping(min_diversity=0.5).best(rows) == 2
    assert EarlyStopping(min_diversity=0.8, patience=2).reason(rows) is not None


def test_diversity_is_the_mean_distance_of_pairs():
    x = np.random.default_rng(0).normal(size=(3, 2, 5)) + 100
    figures = diversity(x)
    within = [np.linalg.norm(x[i, 0] - x[i, 1]) for i in range(3)]
    across = [
        np.linalg.norm(x[i, a] - x[j, b])
        for i in range(3)
        for j in range(3)
        for a in range(2)
        for b in range(2)
        if i != j
    ]
    assert figures["diversity"] == pytest.approx(np.mean(within))
    assert figures["diversity_across"] == pytest.approx(np.mean(across))
    assert set(diversity(x[:1])) == {"diversity"}
    assert set(diversity(x[:, :1])) == {"diversity_across"}


def test_black_and_white_are_as_far_apart_as_can_be():
    images = jnp.stack([jnp.zeros((24, 24, 3)), jnp.ones((24, 24, 3))])
    features = np.asarray(coarse_pixels(images))[None]
    assert diversity(features)["diversity"] == pytest.approx(1)


def test_square_root_decay():
    schedule = square_root_decay(0.5, s0=3)
    rates = np.asarray([schedule(jnp.asarray(count)) for count in (0, 8, 35, 899)])
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.25, 0.05], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(schedule(8)), 0.5, rtol=1e-6)


_MEAN = {"mean": lambda images: jnp.mean(images, axis=(1, 2, 3))}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Evaluation([], _MEAN), "`prompts`"),
        (lambda: Evaluation(["a"], {}), "`rewards` must name at least one"),
        (
            lambda: Evaluation(["a"], {"score": _MEAN["mean"]}),
            "must not be named 'score'",
        ),
        (lambda: Evaluation(["a"], _MEAN, every=0), "`every` must be a whole"),
        (lambda: Evaluation(["a"], _MEAN, num_samples=0), "`num_samples` must be"),
        (lambda: Evaluation(["a"], _MEAN, batch_size=0), "`batch_size` must be"),
        (lambda: Evaluation(["a"], _MEAN, weights={"x": 1.0}), "`weights` must be of"),
        (
            lambda: Evaluation(["a"], _MEAN, num_samples=1, weights={"diversity": 1.0}),
            r"among \['mean'\]",
        ),
        (lambda: EarlyStopping(patience=0), "`patience` must be a whole"),
        (lambda: EarlyStopping(min_delta=-1.0), "`min_delta` must be"),
        (lambda: EarlyStopping(min_diversity=1.5), "`min_diversity` must lie"),
        (lambda: square_root_decay(1.0, s0=0), "`s0` must be"),
        (lambda: square_root_decay(0.0, s0=10), "`learning_rate` must be"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_learning_rate_of_a_row_is_that_of_the_optimizer():
    """Which does not count the steps that were skipped."""
    run = Run(
        whole=lambda trainable: trainable,
        num_train_steps=9,
        max_skipped_steps=10,
        evaluation=None,
        early_stopping=None,
        cost=Budget(images=4),
        max_budget=Budget(images=14, seconds=99),
        learning_rate=lambda count: 1.0 + count,
    )
    for fine in (True, False, False, True):
        assert run.stopped is None or len(run.history) == 3
        metrics = dict(gradient_norm=1.0, prompts=np.arange(2), is_finite=fine)
        run.record(metrics | dict(rewards=np.ones(2, np.float32)), seconds=0.5)
    rows = run.history
    assert [row["learning_rate"] for row in rows] == [1, 2, 2, 2]
    assert [row["skipped"] for row in rows] == [0, 1, 2, 2]
    assert [row["seconds"] for row in rows] == [0.5, 1, 1.5, 2]
    assert [row["images"] for row in rows] == [4, 8, 12, 16]
