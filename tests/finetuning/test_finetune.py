import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, PRNGKeyArray

import draftx
from draftx.finetuning import (
    Budget,
    coarse_pixels,
    EarlyStopping,
    Evaluation,
    sweep_lora_scale,
)
from draftx.rewards import AbstractRandomReward

from ..io.tiny import random_pipeline, write_tokenizer


def _reward(images):
    return -jnp.mean((images - 0.3) ** 2, axis=(1, 2, 3))


def _negative(images):
    return -_reward(images)


class _Flaky(AbstractRandomReward):
    """NaN at a rate, but not with the key that it begins with."""

    key: PRNGKeyArray
    first: PRNGKeyArray
    rate: Array

    def __call__(self, images, prompts=None):
        same = jnp.all(jr.key_data(self.key) == jr.key_data(self.first))
        fails = jr.bernoulli(self.key, self.rate) & ~same
        return jnp.where(fails, jnp.nan, _reward(images))


def _flaky(rate):
    """All rates share one program."""
    return _Flaky(jr.key(5), jr.key(5), jnp.asarray(rate, jnp.float32))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    base = random_pipeline(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    return draftx.add_lora(base, rank=2, targets=["proj_out"], key=jr.key(0))


def _finetune(pipeline, reward=None, **kwargs):
    defaults: dict[str, Any] = dict(
        method=draftx.DRaFT(truncation_steps=1),
        key=jr.key(0),
        num_train_steps=6,
        batch_size=2,
        learning_rate=3e-2,
        num_inference_steps=2,
        guidance_scale=2.0,
        show_progress=False,
    )
    reward = _flaky(0.0) if reward is None else reward
    return draftx.finetune(pipeline, reward, ["cat", "do"], **(defaults | kwargs))


def _evaluation(**kwargs):
    defaults: dict[str, Any] = dict(
        weights={"there": 1.0, "diversity": 2.0},
        every=4,
        batch_size=3,
        num_inference_steps=2,
        guidance_scale=2.0,
    )
    rewards = {"there": _reward, "against": _negative}
    return Evaluation(["do", "cat do"], rewards, **(defaults | kwargs))


@pytest.fixture(scope="module")
def evaluation():
    return _evaluation()


@pytest.fixture(scope="module")
def result(pipeline, evaluation):
    return _finetune(pipeline, evaluation=evaluation)


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
        assert bool(np.array_equal(old, new)) != is_adapter or not is_adapter


def test_same_key_same_result_and_callback_sees_every_step(pipeline, result):
    seen = []
    again = _finetune(pipeline, callback=lambda row, p: seen.append((row["step"], p)))
    assert [step for step, _ in seen] == list(range(6))
    expected = draftx.lora_state_dict(result.pipeline)
    for state in (again.pipeline, seen[-1][1]):
        for name, array in draftx.lora_state_dict(state).items():
            np.testing.assert_array_equal(array, expected[name])


def test_only_finite_steps_are_taken(pipeline):
    states = [draftx.lora_state_dict(pipeline)]
    result = _finetune(
        pipeline,
        _flaky(0.5),
        callback=lambda row, p: states.append(draftx.lora_state_dict(p)),
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
            np.testing.assert_allclose(largest, 3e-2, rtol=1e-2)


def test_too_many_steps_that_are_not_finite_end_it(pipeline):
    with pytest.raises(
        draftx.RewardError, match="finite scores.*3 steps in a row"
    ) as e:
        _finetune(pipeline, _flaky(1.0), max_skipped_steps=3)
    assert [row["skipped"] for row in e.value.result.history] == [1, 2, 3]
    before = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(e.value.result.pipeline).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda images: jnp.sqrt(_reward(images) - 1), "finite scores; got .nan"),
        (lambda images: _reward(jnp.round(255 * images)), "DDPO"),
    ],
)
def test_bad_reward_ends_it_before_the_first_step(pipeline, reward, message):
    with pytest.raises(draftx.RewardError, match=message) as error:
        _finetune(pipeline, reward)
    assert error.value.result.history == []
    assert error.value.result.pipeline is pipeline


def test_evaluations_are_in_the_history(pipeline, result, evaluation):
    assert [figures["step"] for figures in result.evaluations] == [0, 4, 6]
    names = {"score", "there", "against", "diversity", "diversity_across"}
    for i, row in enumerate(result.history):
        held_out = {x for x in row if x.startswith("held_out/")}
        expected = names if i in (3, 5) else set()
        assert held_out == {f"held_out/{name}" for name in expected}
    before, _, last = result.evaluations
    assert {f"before/{name}" for name in names} <= set(result.history[0])
    assert before["score"] == pytest.approx(before["there"] + 2 * before["diversity"])
    assert before["against"] == pytest.approx(-before["there"])
    again = evaluation(result.pipeline)
    assert again == {name: last[name] for name in again}


def test_the_figures_are_those_of_pictures_drawn_alone(pipeline, evaluation):
    figures = evaluation(pipeline)
    images = [
        draftx.sample(
            pipeline,
            [evaluation.prompts[i // 2]] * 3,
            latents=evaluation.latents(pipeline, np.asarray([i, i, i])),
            num_inference_steps=2,
            guidance_scale=2.0,
        )
        for i in range(4)
    ]
    rewards = [_reward(image) for image in images]
    assert figures["there"] == pytest.approx(float(np.mean(rewards)), rel=1e-5)
    x = [np.asarray(coarse_pixels(image)[0]) for image in images]
    distance = lambda i, j: np.linalg.norm(x[i] - x[j])
    within = (distance(0, 1) + distance(2, 3)) / 2
    assert figures["diversity"] == pytest.approx(within, rel=1e-4)


def test_stops_and_rolls_back_when_the_held_out_score_falls(pipeline):
    result = _finetune(
        pipeline,
        evaluation=_evaluation(weights={"against": 1.0}),
        early_stopping=EarlyStopping(patience=1, require_rising=False),
    )
    assert len(result.history) == 4
    assert result.step == 0
    assert "without a better one" in str(result.stopped)
    expected = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(result.pipeline).items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_budget_ends_it(pipeline, result):
    limited = _finetune(pipeline, max_budget=Budget(unet_forwards=23))
    # Two images, two steps, each with and without guidance.
    assert [row["unet_forwards"] for row in limited.history] == [8, 16]
    assert [row["images"] for row in limited.history] == [2, 4]
    assert "unet_forwards" in str(limited.stopped)
    for mine, whole in zip(limited.history, result.history, strict=False):
        assert mine["reward"] == whole["reward"]


def test_scale_is_picked_by_the_held_out_score(result, evaluation):
    pipeline = result.pipeline
    scale, rows = sweep_lora_scale(pipeline, [0, 1], evaluation)
    assert [row["lora_scale"] for row in rows] == [0, 1]
    assert scale == max(rows, key=lambda row: row["score"])["lora_scale"]
    against = _evaluation(weights={"against": 1.0}, every=2)
    assert {
        sweep_lora_scale(pipeline, [0, 1], e)[0] for e in (evaluation, against)
    } == {
        0,
        1,
    }
    with pytest.raises(ValueError, match="`scales` must hold at least one"):
        sweep_lora_scale(pipeline, [], evaluation)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (dict(batch_size=0), "`batch_size` must be a whole number"),
        (dict(learning_rate=float("inf")), "`learning_rate` must be finite"),
        (dict(learning_rate=-1.0), "`learning_rate` must be finite and positive"),
        (dict(method=draftx.DRaFT(3)), r"must lie in \[1, 2\]"),
        (dict(max_skipped_steps=0), "`max_skipped_steps` must be a whole number"),
        (dict(max_budget=Budget()), "`max_budget` must limit something"),
        (dict(max_budget=Budget(images=1)), "must allow one step, 2 images; got 1"),
        (dict(early_stopping=EarlyStopping()), "must come with an `evaluation`"),
    ],
)
def test_bad_input_is_named(pipeline, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _finetune(pipeline, **kwargs)
