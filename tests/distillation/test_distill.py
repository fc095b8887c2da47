"""An optimization: its steps, its history, what it hears, and how it goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import draftx
from draftx.distillation import (
    distill,
    distillation_gradient,
    ScoreDistillation,
    TimeAnnealing,
    VisualPrompt,
)
from draftx.io.checkpoints import CheckpointStore
from draftx.rewards import WeightedSum

from ..helpers import assert_close
from ..toys import toy_reward
from .toys import KEY, params, PROMPTS, render, SAMPLING


_REWARD = WeightedSum([toy_reward], [2.0], ["light"])
_METHOD = ScoreDistillation(annealing=TimeAnnealing((0.1, 0.3), 3))
_PICTURE = VisualPrompt(np.full((8, 8, 3), 0.3, np.float32))
_OPTIMIZER = draftx.adamw(0.1, weight_decay=0.0)


def _distill(pipeline, steps=4, **options):
    given = dict(
        key=KEY,
        num_train_steps=steps,
        method=_METHOD,
        reward=_REWARD,
        visual_prompt=_PICTURE,
        optimizer=_OPTIMIZER,
        callbacks=(),
    )
    return distill(pipeline, render, params(), PROMPTS, SAMPLING, **(given | options))


@pytest.fixture(scope="module")
def whole(short_pipeline):
    return _distill(short_pipeline)


def test_what_it_gives(whole):
    start = params()
    assert whole.stopped is None
    assert [row["step"] for row in whole.history] == [0, 1, 2, 3]
    assert whole.params["shift"] == start["shift"]
    assert np.abs(whole.params["colors"] - start["colors"]).max() > 0.1
    last = whole.history[-1]
    assert {"reward", "reward_std", "reward/light", "residual"} <= last.keys()
    assert last["reward"] == pytest.approx(2 * last["reward/light"])
    assert last["learning_rate"] == pytest.approx(0.1)
    # Two images with guidance, and a picture without.
    assert last["unet_forwards"] == 4 * (2 * 2 + 1)
    assert (last["images"], last["reward_queries"], last["skipped"]) == (8, 8, 0)
    # Annealed: the last times are those of the final range.
    assert 100 <= last["timestep"] <= 300


def test_a_step_follows_the_gradient(short_pipeline):
    made = _distill(short_pipeline, 1, optimizer=optax.sgd(0.5))
    figures, gradient = distillation_gradient(
        short_pipeline,
        render,
        params(),
        PROMPTS,
        SAMPLING,
        key=KEY,
        method=_METHOD,
        reward=_REWARD,
        visual_prompt=_PICTURE,
    )
    expected = params()["colors"] - 0.5 * gradient["colors"]
    assert_close(made.params["colors"], expected)
    assert made.history[0]["timestep"] == int(figures["timestep"])
    norm = optax.tree.norm(gradient["colors"])
    assert made.history[0]["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)


class _Stop(Exception):
    pass


def test_it_goes_on_bit_for_bit(whole, short_pipeline, tmp_path):
    heard = []

    def stop(row, params):
        heard.append((row["step"], np.asarray(params["colors"])))
        if row["step"] == 2 and len(heard) == 3:
            raise _Stop

    saved = draftx.Checkpoints(tmp_path, every=1)
    with pytest.raises(_Stop):
        _distill(short_pipeline, checkpoints=saved, callbacks=(stop,))
    assert CheckpointStore(tmp_path).steps() == [1, 2]
    result = _distill(short_pipeline, checkpoints=saved, callbacks=(stop,))
    assert [step for step, _ in heard] == [0, 1, 2, 2, 3]
    np.testing.assert_array_equal(heard[2][1], heard[3][1])
    np.testing.assert_array_equal(result.params["colors"], whole.params["colors"])
    without = lambda rows: [
        {k: x for k, x in r.items() if k != "seconds"} for r in rows
    ]
    assert without(result.history) == without(whole.history)
    # Changes are named.
    for changed in (dict(visual_prompt=None), dict(method=ScoreDistillation())):
        with pytest.raises(ValueError, match="must be gone on with as it was begun"):
            _distill(short_pipeline, checkpoints=saved, **changed)


def test_what_a_bar_says(short_pipeline, capsys):
    bar = draftx.ProgressBar(name="distilling")
    made = _distill(
        short_pipeline, 2, reward=None, visual_prompt=None, callbacks=(bar,)
    )
    assert "reward" not in made.history[0]
    assert made.history[-1]["reward_queries"] == 0
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("distilling: ") for line in lines)
    assert lines[0] == "distilling: 2 steps"
    assert "reward" not in "".join(lines)


def test_it_ends_within_a_budget(short_pipeline):
    stopping = draftx.Stopping(max_budget=draftx.Budget(images=5))
    result = _distill(short_pipeline, stopping=stopping)
    assert len(result.history) == 2
    assert "budget of 5 images" in result.stopped


def test_steps_that_are_not_finite_are_skipped(short_pipeline):
    def breaks(params, key):
        # Finite where it is tried, at the beginning, and at no step.
        is_first = jnp.array_equal(jax.random.key_data(key), jax.random.key_data(KEY))
        return jnp.where(is_first, render(params, key), jnp.nan)

    with pytest.raises(
        draftx.RewardError, match="`render` and `reward` must have"
    ) as e:
        distill(
            short_pipeline,
            breaks,
            params(),
            PROMPTS,
            SAMPLING,
            key=KEY,
            num_train_steps=9,
            optimizer=_OPTIMIZER,
            stopping=draftx.Stopping(max_skipped_steps=2),
            callbacks=(),
        )
    left = e.value.result
    assert len(left.history) == 2
    np.testing.assert_array_equal(left.params["colors"], params()["colors"])
