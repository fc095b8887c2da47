"""Rounds: what is not learned from, when they end, and what they leave as it was."""

import jax
import numpy as np
import optax
import pytest

import draftx
from draftx.finetuning import EarlyStopping, Evaluation, Stopping
from draftx.io.checkpoints import CheckpointStore

from ..short import FROM_PARAMS
from .short import BROKEN, darkness, JPEG, train


def test_rounds_without_a_finite_reward_are_not_learned_from(pipeline):
    def callback(row, pipeline):
        BROKEN[0] = row["step"] < 2

    result = train(
        pipeline, draftx.DDPO(), JPEG, num_train_steps=4, callbacks=[callback]
    )
    assert [row["skipped"] for row in result.history] == [0, 1, 2, 2]
    assert ["gradient_norm" in row for row in result.history] == [1, 0, 0, 1]


def test_training_gives_up_with_what_was_reached(pipeline):
    def callback(row, pipeline):
        BROKEN[0] = True

    try:
        with pytest.raises(draftx.RewardError, match="finite scores") as error:
            train(
                pipeline, draftx.DDPO(), JPEG, num_train_steps=99, callbacks=[callback]
            )
    finally:
        BROKEN[0] = False
    assert len(error.value.result.history) == 11
    assert draftx.lora.has_lora(error.value.result.pipeline)


def test_evaluations_and_a_budget_end_it(pipeline):
    evaluation = Evaluation(
        ["cat", "do"],
        {"light": lambda images: -darkness(images)},
        draftx.Sampling(num_inference_steps=2),
        every=1,
        batch_size=4,
    )
    stopped = train(
        pipeline,
        draftx.DDPO(),
        num_train_steps=9,
        evaluation=evaluation,
        stopping=Stopping(EarlyStopping(2, require_rising=False, min_delta=1.0)),
    )
    assert len(stopped.history) == 2
    assert stopped.step == 0
    assert "without a better one" in str(stopped.stopped)
    assert [figures["step"] for figures in stopped.evaluations] == [0, 1, 2]
    expected = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(stopped.pipeline).items():
        np.testing.assert_array_equal(array, expected[name])

    images = stopped.history[0]["images"]
    limited = train(
        pipeline,
        draftx.DDPO(),
        num_train_steps=9,
        stopping=Stopping(max_budget=draftx.Budget(images=images)),
    )
    assert len(limited.history) == 1
    assert "images" in str(limited.stopped)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_train_steps=0), "`num_train_steps` must be a whole number"),
        (
            dict(updates=draftx.Updates(minibatch_size=3)),
            "`minibatch_size` .* divides 4; got 3",
        ),
        (
            dict(updates=draftx.Updates(steps_per_update=2)),
            "`steps_per_update` .* divides 3; got 2",
        ),
    ],
)
def test_bad_input_is_named(pipeline, kwargs, message):
    with pytest.raises(ValueError, match=message):
        train(pipeline, draftx.DDPO(), **kwargs)


def test_bad_rewards_are_named(pipeline):
    host = draftx.rewards.HostReward
    with pytest.raises(ValueError, match=r"shape \(4,\); got shape \(\)"):
        train(pipeline, draftx.DDPO(), host(lambda images: images.mean()))
    with pytest.raises(draftx.RewardError, match="DDPO"):
        train(pipeline, draftx.DPG(), host(lambda images: images.mean((1, 2, 3))))
    with pytest.raises(ValueError, match="`fn` must be a function of images"):
        host(lambda: 0)


def test_pipelines_handed_in_and_out_stay_as_they_were(pipeline):
    copy = lambda p: [np.array(x, copy=True) for x in jax.tree.leaves(p)]
    given, seen = copy(pipeline), []
    keep = lambda row, p: seen.append((p, copy(p)))
    first = train(pipeline, draftx.DDPO(), callbacks=[keep])
    train(pipeline, draftx.DDPO(), callbacks=[keep])
    train(first.pipeline, draftx.DDPO(), callbacks=[keep])
    assert len(seen) == 6
    for kept, was in [(pipeline, given), *seen]:
        for actual, expected in zip(jax.tree.leaves(kept), was, strict=True):
            np.testing.assert_array_equal(actual, expected)
    states = [draftx.lora_state_dict(kept) for kept, _ in seen]
    for name, array in draftx.lora_state_dict(first.pipeline).items():
        np.testing.assert_array_equal(array, states[1][name])
        np.testing.assert_array_equal(array, states[3][name])


def test_an_optimizer_may_begin_with_the_arrays_that_it_trains(pipeline):
    result = train(pipeline, draftx.DDPO(), optimizer=FROM_PARAMS, num_train_steps=1)
    assert "gradient_norm" in result.history[0]


def test_accumulated_updates_are_one_of_all_the_images(pipeline):
    inner = draftx.adamw(1e-2, 0.5)
    once = train(
        pipeline, draftx.DDPO(), updates=draftx.Updates(), optimizer=inner
    ).pipeline
    halves = draftx.Updates(minibatch_size=2)
    twice = train(
        pipeline,
        draftx.DDPO(),
        updates=halves,
        optimizer=optax.MultiSteps(inner, 2),
    )
    expected = draftx.lora_state_dict(once)
    before = draftx.lora_state_dict(pipeline)
    for name, array in draftx.lora_state_dict(twice.pipeline).items():
        moved = np.abs(expected[name] - before[name]).max()
        assert moved > 5e-3
        assert np.abs(array - expected[name]).max() < 1e-3 * moved
    # Both halves are learned from before anything moves: their ratios are 1.
    assert [row["divergence"] for row in twice.history] == [0, 0]
    assert [row["learning_rate"] for row in twice.history] == [0.01, 0.01]


def test_equal_rows_share_their_statistics(pipeline):
    seen = []

    class Seen(draftx.DDPO):
        def weigh(self, remembered, rows, rewards):
            seen.append(rows.tolist())
            return super().weigh(remembered, rows, rewards)

    result = train(pipeline, Seen(), prompts=("do", "do"), num_train_steps=3)
    drawn = [i for row in result.history for i in row["prompts"]]
    assert set(drawn) == {0, 1}
    assert {i for rows in seen for i in rows} == {0}


class Stop(Exception):
    pass


def _stop(row, pipeline):
    if row["step"] == 2:
        raise Stop


def test_rounds_go_on_where_they_were_saved(pipeline, tmp_path):
    # What is remembered of each prompt counts from the second reward on.
    method = draftx.DDPO(buffer_size=3, min_count=2)

    def result(folder, callbacks=()):
        return train(
            pipeline,
            method,
            num_train_steps=4,
            callbacks=callbacks,
            checkpoints=draftx.Checkpoints(tmp_path / folder, every=2),
        )

    whole = result("whole")
    with pytest.raises(Stop):
        result("parts", [_stop])
    parts = result("parts")
    untimed = lambda rows: [
        {k: v for k, v in r.items() if k != "seconds"} for r in rows
    ]
    assert untimed(parts.history) == untimed(whole.history)
    one, other = (CheckpointStore(tmp_path / n).read(4) for n in ("whole", "parts"))
    assert any("counts" in name for name in one.arrays)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes()
