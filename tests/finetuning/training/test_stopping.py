"""When a training ends, and what its rows say until then."""

import numpy as np
import pytest

from draftx import Budget
from draftx.finetuning import EarlyStopping, Stopping
from draftx.finetuning.training import Run


def _run(stopping, cost):
    return Run(
        whole=lambda trainable: trainable,
        num_train_steps=9,
        evaluation=None,
        stopping=stopping,
        cost=cost,
        callbacks=(),
    )


def _record(run, is_finite=True, **figures):
    metrics = dict(gradient_norm=1.0, prompts=np.arange(2), is_finite=is_finite)
    rewards = np.ones(2, np.float32)
    return run.record(metrics | dict(rewards=rewards) | figures, seconds=0.5)


def test_a_run_ends_before_the_step_that_would_cost_too_much():
    run = _run(Stopping(max_budget=Budget(images=14, seconds=99)), Budget(images=4))
    assert run.stopped is None
    for i, fine in enumerate((True, False, False, True)):
        _record(run, fine, learning_rate=np.float32(i))
        # Three times 4 images are within 14, a fourth would not be.
        assert (run.stopped is not None) == (i >= 2)
    assert "budget of 14 images" in str(run.stopped)
    rows = run.history
    assert [row["learning_rate"] for row in rows] == [0, 1, 2, 3]
    assert [row["skipped"] for row in rows] == [0, 1, 2, 2]
    assert [row["seconds"] for row in rows] == [0.5, 1, 1.5, 2]
    assert [row["images"] for row in rows] == [4, 8, 12, 16]


def test_a_cost_that_is_not_known_leaves_seconds_to_limit():
    stopping = Stopping(max_budget=Budget(seconds=0.9))
    stopping.check(None, None)
    run = _run(stopping, None)
    assert set(_record(run)) >= {"seconds"}
    assert run.stopped is None
    row = _record(run)
    assert "0.9 seconds" in str(run.stopped)
    assert "images" not in row
    with pytest.raises(ValueError, match="limit seconds alone.*got {'images': 9}"):
        Stopping(max_budget=Budget(images=9)).check(None, None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Stopping(max_budget=Budget()), "`max_budget` must limit something"),
        (lambda: Stopping(max_skipped_steps=0), "`max_skipped_steps` must be a whole"),
        (lambda: Stopping(EarlyStopping()).check(None, None), "with an `evaluation`"),
        (
            lambda: Stopping(max_budget=Budget(1)).check(None, Budget(2)),
            "`max_budget` must allow one step, 2 images; got 1",
        ),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
