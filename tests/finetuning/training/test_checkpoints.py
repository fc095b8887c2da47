"""A training that is interrupted and called again gives what it would have given."""

import dataclasses
import functools as ft
import json
import os
import signal
import time
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import draftx
from draftx import Table
from draftx.finetuning.training import Run, to_default_device
from draftx.io import ModelFileError
from draftx.io.checkpoints import (
    AbstractCheckpointStore,
    Checkpoint,
    CheckpointStore,
    describe,
)

from ...io.tiny import random_lora
from ...toys import toy_reward


class Stop(Exception):
    pass


def _stop_after(steps):
    def callback(row, pipeline):
        if row["step"] + 1 == steps:
            raise Stop

    return callback


def _untimed(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class Weights(eqx.Module):
    """What the toy training trains."""

    trainable: jax.Array
    opt_state: Any


_FACTS = {"key": "5"}


def _train(
    pipeline,
    folder=None,
    *,
    steps=5,
    callbacks=(),
    facts=_FACTS,
    stopping=None,
    **kwargs,
):
    """A training of one bias: its numbers go down, and are its rewards."""
    checkpoints = None
    if folder is not None:
        checkpoints = draftx.Checkpoints(folder, **({"every": 2} | kwargs))
    optimizer = optax.sgd(0.1, momentum=0.9)

    def take_step(state, step):
        noise = jr.normal(jr.fold_in(jr.key(5), step), (8,))
        gradient = state.trainable + noise
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        weights = optax.apply_updates(state.trainable, updates)
        metrics = dict(rewards=weights, prompts=jnp.zeros(8, int), is_finite=True)
        return Weights(weights, opt_state), jax.device_get(metrics)

    weights = jnp.ones(8)
    run = Run(
        whole=lambda weights: eqx.tree_at(
            lambda p: p.unet.conv_in.bias, pipeline, to_default_device(weights)
        ),
        num_train_steps=steps,
        evaluation=None,
        stopping=draftx.Stopping() if stopping is None else stopping,
        cost=draftx.Budget(images=2),
        callbacks=callbacks,
        checkpoints=checkpoints,
        facts=facts,
    )
    return run.train(take_step, Weights(weights, optimizer.init(weights)))


@pytest.fixture
def train(short_pipeline):
    return ft.partial(_train, short_pipeline)


def _assert_same(one, other):
    assert _untimed(one.history) == _untimed(other.history)
    for name in ("evaluations", "step", "stopped"):
        assert getattr(one, name) == getattr(other, name)
    jax.tree.map(
        np.testing.assert_array_equal,
        *(eqx.filter(result.pipeline, eqx.is_array) for result in (one, other)),
    )


def test_it_gives_the_same_bits_however_often_it_is_interrupted(train, tmp_path):
    whole = train()
    for steps in (1, 3, 4):  # Before any, after the first and the second checkpoint.
        with pytest.raises(Stop):
            train(tmp_path, callbacks=[_stop_after(steps)])
    _assert_same(train(tmp_path), whole)
    assert CheckpointStore(tmp_path).steps() == [2, 4, 5]
    # With more steps it goes on, the state of the optimizer too.
    _assert_same(train(tmp_path, steps=7), train(steps=7))
    # What is done is not done again.
    _assert_same(train(tmp_path, steps=7, callbacks=[_stop_after(7)]), train(steps=7))


@pytest.mark.oracle
def test_orbax_gives_the_same_bits(train, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "orbax"
    for folder, store in ((plain, "safetensors"), (other, "orbax")):
        with pytest.raises(Stop):
            train(folder, store=store, callbacks=[_stop_after(3)])
        _assert_same(train(folder, store=store), train())
        with pytest.raises(
            ValueError, match="begun; changed since:\n  key: was 5, is 6"
        ):
            train(folder, store=store, facts={"key": "6"})
    read = [draftx.Checkpoints(plain).open().read(5)]
    read += [draftx.Checkpoints(other, store="orbax").open().read(5)]
    assert read[0].arrays.keys() == read[1].arrays.keys()
    for name, array in read[0].arrays.items():
        assert array.tobytes() == read[1].arrays[name].tobytes()
    assert read[0].notes.keys() == read[1].notes.keys()
    with pytest.raises(ValueError, match="`store` must be 'orbax' for .*; got 'safete"):
        train(other)
    with pytest.raises(ValueError, match="`store` must be 'safetensors' for"):
        train(plain, store="orbax")


def test_a_store_of_ones_own_keeps_them(train, tmp_path):
    class Memory(AbstractCheckpointStore):
        """Keeps checkpoints as long as the process lives."""

        kept: ClassVar[dict[int, Any]] = {}

        def steps(self):
            return sorted(self.kept)

        def path(self, step):
            return tmp_path / str(step)

        def save(self, step, arrays, notes):
            arrays = {name: np.array(array) for name, array in arrays.items()}
            notes = json.loads(json.dumps(notes))
            self.kept[step] = Checkpoint(step, arrays, notes, self.path(step))
            return self.path(step)

        def read(self, step):
            return self.kept[step]

    def make(folder, total_limit, permanent_every):
        assert (folder, total_limit, permanent_every) == (tmp_path, 3, None)
        return Memory()

    with pytest.raises(Stop):
        train(tmp_path, store=make, callbacks=[_stop_after(3)])
    assert list(Memory.kept) == [2]
    _assert_same(train(tmp_path, store=make), train())
    assert list(tmp_path.iterdir()) == []


def test_callbacks_hear_what_was_before(train, tmp_path):
    class Heard(draftx.AbstractCallback):
        def __init__(self):
            self.before, self.rows = [], []

        def needs_pipeline(self):
            return False

        def resume(self, history):
            self.before = [row["step"] for row in history]

        def __call__(self, row, pipeline):
            self.rows.append(row["step"])

    first, second = Heard(), Heard()
    with pytest.raises(Stop):
        train(tmp_path, callbacks=[first, _stop_after(3)])
    train(tmp_path, callbacks=[second, draftx.ProgressBar()])
    assert (first.before, first.rows) == ([], [0, 1, 2])
    assert (second.before, second.rows) == ([0, 1], [2, 3, 4])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(train, tmp_path, number, capfd):
    def callback(row, pipeline):
        if row["step"] == 0:
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # It is heard by another thread.

    ended = train(tmp_path, callbacks=[callback])
    assert (ended.stopped, len(ended.history)) == (number.name, 1)
    assert CheckpointStore(tmp_path).steps() == [1]
    assert "saved, then this ends" in capfd.readouterr().err
    _assert_same(train(tmp_path), train())


def test_what_stopped_a_training_stays(train, tmp_path):
    stopping = draftx.Stopping(max_budget=draftx.Budget(images=6))
    ended = train(tmp_path, stopping=stopping)
    assert len(ended.history) == 3
    _assert_same(train(tmp_path, stopping=stopping), ended)


def test_changed_facts_are_shown_and_refused(train, tmp_path):
    train(tmp_path, steps=2)
    changed = {"key": "6", "new": "x"}
    message = "begun; changed since:\n  key: was 5, is 6\n  new: was None, is x\nChange"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, facts=changed)
    assert len(train(tmp_path, facts=changed, allow_changes=True).history) == 5


def test_what_was_not_kept_cannot_be_asked_for_later(train, tmp_path):
    train(tmp_path, steps=2)
    stopping = draftx.Stopping(draftx.EarlyStopping(patience=None))
    with pytest.raises(ValueError, match="must not begin to keep the best adapter"):
        train(tmp_path, stopping=stopping)
    assert len(train(tmp_path).history) == 5


def test_where_it_goes_on_from_can_be_said(train, tmp_path):
    whole = train(tmp_path)
    _assert_same(train(tmp_path, resume=2), whole)
    with pytest.raises(ModelFileError, match="must have a checkpoint of step 3"):
        train(tmp_path, resume=3)
    with pytest.raises(ValueError, match=r"has those of steps \[2, 4, 5\]"):
        train(tmp_path, resume=False)
    with pytest.raises(ValueError, match="`num_train_steps` must be at least 5"):
        train(tmp_path, steps=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(every=0), "`every` must be a whole number"),
        (dict(total_limit=0), "`total_limit` must be a whole number"),
        (dict(permanent_every=0), "`permanent_every` must be a whole number"),
        (dict(resume=0), "`resume` must be True"),
        (dict(store="tar"), r"`store` must be one of \['safetensors', 'orbax'\]"),
    ],
)
def test_options_are_checked(options, message, without_types):
    with pytest.raises(ValueError, match=message):
        draftx.Checkpoints("run", **options)


def test_they_are_equal_when_their_fields_are():
    one = draftx.Checkpoints("run")
    assert one == dataclasses.replace(one)


def test_what_decides_the_course_of_a_training_is_described(short_pipeline):
    def described(**changes):
        known = dict(
            kind="training",
            pipeline=short_pipeline,
            table=Table.of(["cat", "do"]),
            key=jr.key(1),
            options=dict(method=draftx.DRaFT(1), reward=toy_reward, size=2),
        )
        return describe(**(known | changes))

    facts = described()
    assert facts == described()
    assert facts["method"] == "DRaFT(truncation_steps=1)"
    assert facts["size"] == "2"
    assert "0x" not in "".join(facts.values())
    options = dict(method=draftx.DRaFT(2), reward=toy_reward, size=2)
    bias = lambda p: p.unet.conv_in.bias
    for name, changes in {
        "pipeline": dict(
            pipeline=eqx.tree_at(bias, short_pipeline, replace_fn=lambda x: x + 1)
        ),
        "prompts": dict(table=Table.of(["cat", "cow"])),
        "key": dict(key=jr.key(2)),
        "method": dict(options=options),
    }.items():
        other = described(**changes)
        assert {n for n in facts if facts[n] != other[n]} == {name}


def test_finetune_goes_on_with_early_stopping_and_evaluations(short_pipeline, tmp_path):
    pipeline = random_lora(short_pipeline, targets=("attn2.to_v",), scale=0.3)
    sampling = draftx.Sampling(num_inference_steps=1, guidance_scale=1.0)
    evaluation = draftx.Evaluation(
        ["cat"], {"toy": toy_reward}, sampling, every=2, num_samples=1
    )

    def train(checkpoints, callbacks=(), seed=5, rate=4e-4):
        return draftx.finetune(
            pipeline,
            toy_reward,
            ["cat", "do"],
            sampling,
            method=draftx.DRaFTLV(num_samples=1),
            key=jr.key(seed),
            num_train_steps=4,
            batch_size=2,
            optimizer=draftx.adamw(rate),
            evaluation=evaluation,
            stopping=draftx.Stopping(draftx.EarlyStopping(patience=None)),
            callbacks=callbacks,
            checkpoints=checkpoints,
        )

    whole = train(draftx.Checkpoints(tmp_path / "whole", every=2))
    parts = draftx.Checkpoints(tmp_path / "parts", every=2)
    with pytest.raises(Stop):
        train(parts, [_stop_after(3)])
    _assert_same(train(parts), whole)
    one, other = (CheckpointStore(tmp_path / n).read(4) for n in ("whole", "parts"))
    assert one.notes["best_step"] == other.notes["best_step"] == whole.step
    assert any("opt_state" in name for name in one.arrays)
    assert any("best" in name for name in one.arrays)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes()
    with pytest.raises(ValueError, match="changed since:\n  key: was"):
        train(parts, seed=6)
    with pytest.raises(ValueError, match="changed since:\n  optimizer: was .*, is"):
        train(parts, rate=1e-2)
