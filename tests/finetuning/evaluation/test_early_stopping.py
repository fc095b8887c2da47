"""Which adapter is the best, and when to stop."""

import math
from typing import Any

import pytest

import draftx
from draftx.finetuning import EarlyStopping

from ...toys import toy_reward


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
        (dict(patience=None), [0, 2, 1, 1.5, 1], 1, False),
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


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EarlyStopping(patience=0), "`patience` must be a whole"),
        (lambda: EarlyStopping(min_delta=-1.0), "`min_delta` must be"),
        (lambda: EarlyStopping(min_diversity=1.5), "`min_diversity` must lie"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_one_image_has_no_diversity_to_keep(base_pipeline):
    one = draftx.Evaluation(["a"], {"light": toy_reward}, num_samples=1)
    message = "`min_diversity` must be 0 for an evaluation of one image"
    stopping = draftx.Stopping(EarlyStopping(min_diversity=0.5))
    with pytest.raises(ValueError, match=message):
        stopping.check(one, None)
    with pytest.raises(ValueError, match=message):
        draftx.sweep_lora_scale(base_pipeline, [0, 1], one, min_diversity=0.5)
    draftx.Stopping(EarlyStopping()).check(one, None)
    for others in (dict(num_samples=2), dict(prompts=["a", "b"], num_samples=1)):
        options = dict(prompts=["a"], rewards={"light": toy_reward}) | others
        stopping.check(draftx.Evaluation(**options), None)
