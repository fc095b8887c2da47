import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx.finetuning import EarlyStopping, Stopping

from ...toys import toy_reward
from ..short import finetune, flaky, held_out, RATE


def test_reward_rises_and_history_is_plain(result):
    # Of fixed noise: that of a batch hides what six steps do.
    held_out = [figures["there"] for figures in result.evaluations]
    assert held_out[0] < held_out[1] < held_out[2]
    assert [row["step"] for row in result.history] == list(range(6))
    for row in result.history:
        assert all(isinstance(x, int | float | list) for x in row.values())


def test_only_the_adapter_moves(pipeline, result):
    before = jax.tree_util.tree_flatten_with_path(pipeline)[0]
    after = jax.tree_util.tree_flatten_with_path(result.pipeline)[0]
    for (path, old), (_, new) in zip(before, after, strict=True):
        is_adapter = getattr(path[-1], "name", "") in ("lora_down", "lora_up")
        assert np.array_equal(old, new) != is_adapter, path


def test_same_key_same_result_and_callback_sees_every_step(pipeline, result):
    seen = []
    again = finetune(pipeline, callbacks=[lambda row, p: seen.append((row["step"], p))])
    assert [step for step, _ in seen] == list(range(6))
    expected = draftx.lora_state_dict(result.pipeline)
    for state in (again.pipeline, seen[-1][1]):
        for name, array in draftx.lora_state_dict(state).items():
            np.testing.assert_array_equal(array, expected[name])


def test_only_finite_steps_are_taken(pipeline):
    states = [draftx.lora_state_dict(pipeline)]
    result = finetune(
        pipeline,
        flaky(0.5),
        callbacks=[lambda row, p: states.append(draftx.lora_state_dict(p))],
    )
    fine = [math.isfinite(row["reward"]) for row in result.history]
    first = fine.index(True)
    assert first > 0  # The key is chosen so.
    assert not all(fine[first:])
    for i, row in enumerate(result.history):
        assert row["skipped"] == i + 1 - sum(fine[: i + 1])
        moved = [np.abs(states[i + 1][name] - states[i][name]) for name in states[i]]
        assert any(np.any(x > 0) for x in moved) == fine[i]
        if i == first:
            # Adam's first step is by the learning rate, if nothing came before it.
            largest = max(np.max(x) for x in moved)
            np.testing.assert_allclose(largest, RATE, rtol=1e-2)


def test_too_many_steps_that_are_not_finite_end_it(pipeline):
    with pytest.raises(
        draftx.RewardError, match="finite scores.*3 steps in a row"
    ) as e:
        finetune(pipeline, flaky(1.0), stopping=Stopping(max_skipped_steps=3))
    assert [row["skipped"] for row in e.value.result.history] == [1, 2, 3]
    before = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(e.value.result.pipeline).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda images: jnp.sqrt(toy_reward(images) - 1), "finite scores; got .nan"),
        (lambda images: toy_reward(jnp.round(255 * images)), "DDPO"),
    ],
)
def test_bad_reward_ends_it_before_the_first_step(pipeline, reward, message):
    with pytest.raises(draftx.RewardError, match=message) as error:
        finetune(pipeline, reward)
    assert error.value.result.history == []
    assert error.value.result.pipeline is pipeline


def test_stops_and_rolls_back_when_the_held_out_score_falls(pipeline):
    result = finetune(
        pipeline,
        evaluation=held_out(weights={"against": 1.0}),
        stopping=Stopping(EarlyStopping(patience=1, require_rising=False)),
    )
    assert len(result.history) == 4
    assert result.step == 0
    assert "without a better one" in str(result.stopped)
    expected = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(result.pipeline).items():
        np.testing.assert_array_equal(array, expected[name])


def test_the_best_is_kept_of_a_training_that_takes_all_its_steps(pipeline):
    result = finetune(
        pipeline,
        evaluation=held_out(weights={"there": 1.0}),
        stopping=Stopping(EarlyStopping(patience=None)),
    )
    assert (len(result.history), result.stopped) == (6, None)
    scores = {row["step"]: row["score"] for row in result.evaluations}
    assert result.step == max(scores, key=lambda step: scores[step]) > 0


def test_a_budget_ends_it(pipeline, result):
    limited = finetune(
        pipeline, stopping=Stopping(max_budget=draftx.Budget(unet_forwards=23))
    )
    # Two images, two steps, each with and without guidance.
    assert [row["unet_forwards"] for row in limited.history] == [8, 16]
    assert [row["images"] for row in limited.history] == [2, 4]
    assert "unet_forwards" in str(limited.stopped)
    for mine, whole in zip(limited.history, result.history, strict=False):
        assert mine["reward"] == whole["reward"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (dict(batch_size=0), "`batch_size` must be a whole number"),
        (dict(method=draftx.DRaFT(3)), r"must lie in \[1, 2\]"),
        (
            dict(stopping=Stopping(max_budget=draftx.Budget(images=1))),
            "must allow one step, 2 images; got 1",
        ),
        (dict(stopping=Stopping(EarlyStopping())), "must come with an `evaluation`"),
    ],
)
def test_bad_input_is_named(pipeline, kwargs, message):
    with pytest.raises(ValueError, match=message):
        finetune(pipeline, **kwargs)
