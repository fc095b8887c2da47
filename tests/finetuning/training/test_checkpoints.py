"""A training that is interrupted and called again gives what it would have given."""

import dataclasses
import os
import signal
import time

import equinox as eqx
import jax.random as jr
import numpy as np
import optax
import pytest

import draftx
from draftx.io import ModelFileError
from draftx.io.checkpoints import CheckpointStore

from ...io.tiny import random_lora
from ...toys import toy_reward


_SAMPLING = draftx.Sampling(num_inference_steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return random_lora(short_pipeline, targets=("attn2.to_v",), scale=0.3)


def _train(pipeline, folder=None, *, callbacks=(), **options):
    checkpoints = None
    of_checkpoints = {
        k: options.pop(k) for k in ("every", "resume", "allow_changes") if k in options
    }
    if folder is not None:
        checkpoints = draftx.Checkpoints(folder, **({"every": 2} | of_checkpoints))
    arguments = dict(
        method=draftx.DRaFTLV(num_samples=1),
        key=jr.key(5),
        num_train_steps=5,
        batch_size=2,
        optimizer=draftx.adamw(1e-3),
        callbacks=callbacks,
        checkpoints=checkpoints,
    )
    return draftx.finetune(
        pipeline, toy_reward, ["cat", "do"], _SAMPLING, **(arguments | options)
    )


class Stop(Exception):
    pass


def _stop_after(steps):
    def callback(row, pipeline):
        if row["step"] + 1 == steps:
            raise Stop

    return callback


def _untimed(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def _assert_same(one, other):
    assert _untimed(one.history) == _untimed(other.history)
    for name in ("evaluations", "step", "stopped"):
        assert getattr(one, name) == getattr(other, name)
    pairs = zip(
        *(draftx.lora_state_dict(r.pipeline).values() for r in (one, other)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


def test_the_same_bits_come_out_however_often_it_is_interrupted(pipeline, tmp_path):
    evaluation = draftx.Evaluation(
        ["cat"], {"toy": toy_reward}, _SAMPLING, every=2, num_samples=1
    )
    stopping = draftx.Stopping(draftx.EarlyStopping(patience=50))
    options = dict(evaluation=evaluation, stopping=stopping, num_train_steps=4)
    whole = _train(pipeline, **options)
    for steps in (1, 3):  # Before any checkpoint, and after the first.
        with pytest.raises(Stop):
            _train(pipeline, tmp_path, callbacks=[_stop_after(steps)], **options)
    _assert_same(_train(pipeline, tmp_path, **options), whole)
    assert CheckpointStore(tmp_path).steps() == [2, 4]
    # With more steps it goes on, the state of the optimizer too.
    longer = options | dict(num_train_steps=6)
    _assert_same(_train(pipeline, tmp_path, **longer), _train(pipeline, **longer))
    # What is done is not done again.
    again = _train(pipeline, tmp_path, callbacks=[_stop_after(6)], **longer)
    assert len(again.history) == 6


def test_the_arrays_of_the_state_are_equal_too(pipeline, tmp_path):
    _train(pipeline, tmp_path / "whole")
    with pytest.raises(Stop):
        _train(pipeline, tmp_path / "parts", callbacks=[_stop_after(3)])
    _train(pipeline, tmp_path / "parts")
    one, other = (CheckpointStore(tmp_path / n).read(5) for n in ("whole", "parts"))
    assert one.arrays.keys() == other.arrays.keys()
    assert any("opt_state" in name for name in one.arrays)
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes()


def test_callbacks_hear_what_was_before(pipeline, tmp_path):
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
        _train(pipeline, tmp_path, callbacks=[first, _stop_after(3)])
    _train(pipeline, tmp_path, callbacks=[second, draftx.ProgressBar()])
    assert (first.before, first.rows) == ([], [0, 1, 2])
    assert (second.before, second.rows) == ([0, 1], [2, 3, 4])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(pipeline, tmp_path, number, capfd):
    def callback(row, pipeline):
        if row["step"] == 0:
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # It is heard by another thread.

    ended = _train(pipeline, tmp_path, callbacks=[callback])
    assert ended.stopped == number.name
    assert CheckpointStore(tmp_path).steps() == [1]
    assert "saved, then this ends" in capfd.readouterr().err
    _assert_same(_train(pipeline, tmp_path), _train(pipeline))


def test_what_stopped_a_training_stays(pipeline, tmp_path):
    stopping = draftx.Stopping(max_budget=draftx.Budget(images=6))
    ended = _train(pipeline, tmp_path, stopping=stopping)
    assert len(ended.history) == 3
    again = _train(pipeline, tmp_path, stopping=stopping)
    _assert_same(again, ended)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (dict(key=jr.key(6)), "key: was"),
        (dict(batch_size=3), "batch_size: was 2, is 3"),
        (dict(method=draftx.DRaFT(1)), r"method: was DRaFTLV\(.*, is DRaFT\("),
        (dict(memory=draftx.Memory("block")), "memory: was"),
    ],
)
def test_changed_options_are_shown_and_refused(pipeline, tmp_path, changes, name):
    _train(pipeline, tmp_path, num_train_steps=2)
    with pytest.raises(ValueError, match=f"(?s)begun; changed since:\n  {name}.*allow"):
        _train(pipeline, tmp_path, **changes)
    allowed = changes | dict(allow_changes=True)
    assert len(_train(pipeline, tmp_path, num_train_steps=2, **allowed).history) == 2


def test_another_model_or_adapter_is_another_training(pipeline, tmp_path):
    _train(pipeline, tmp_path, num_train_steps=2)
    other = eqx.tree_at(
        lambda p: p.unet.conv_in.bias, pipeline, replace_fn=lambda x: -x
    )
    for changed in (other, draftx.scale_lora(pipeline, 2)):
        with pytest.raises(ValueError, match="changed since:\n  pipeline: was"):
            _train(changed, tmp_path)


def test_where_it_goes_on_from_can_be_said(pipeline, tmp_path):
    whole = _train(pipeline, tmp_path)
    _assert_same(_train(pipeline, tmp_path, resume=2), whole)
    with pytest.raises(ModelFileError, match="must have a checkpoint of step 3"):
        _train(pipeline, tmp_path, resume=3)
    with pytest.raises(ValueError, match=r"has those of steps \[2, 4, 5\]"):
        _train(pipeline, tmp_path, resume=False)
    with pytest.raises(ValueError, match="`num_train_steps` must be at least 5"):
        _train(pipeline, tmp_path, num_train_steps=3)


def test_another_optimizer_is_named(pipeline, tmp_path):
    _train(pipeline, tmp_path, num_train_steps=2)
    with pytest.raises(ModelFileError, match="saved with other options"):
        _train(pipeline, tmp_path, optimizer=optax.sgd(1e-3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(every=0), "`every` must be a whole number"),
        (dict(total_limit=0), "`total_limit` must be a whole number"),
        (dict(permanent_every=0), "`permanent_every` must be a whole number"),
        (dict(resume=0), "`resume` must be True"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        draftx.Checkpoints("run", **options)


def test_they_are_equal_when_their_fields_are():
    one = draftx.Checkpoints("run")
    assert one == dataclasses.replace(one)
