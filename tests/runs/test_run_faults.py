"""Faults in the midst of a run: one line and an exit code, nothing saved is lost, and
the same command goes on to what would have been.

What is trained is one bias, so that nothing is compiled; all else is a run's own.
"""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import draftx
import draftx.runs.training._train as training
from draftx.finetuning import FinetuneResult
from draftx.finetuning.training import Run
from draftx.io.checkpoints import CheckpointStore
from draftx.runs import main
from draftx.runs.folder._folder import read_lines, RunFolder


STEPS = 6


class Weights(eqx.Module):
    trainable: jax.Array
    opt_state: Any


def _draw(samples, pipeline, step, tell=None):
    """Draws nothing, which would compile a program."""
    del pipeline, tell
    path = samples.folder.samples(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _figure(rewards):
    """As a step of training gives it."""
    return dict(rewards=rewards, prompts=jnp.zeros(8, int), is_finite=True)


@pytest.fixture
def command(model, tmp_path, monkeypatch):
    """Trains in a folder; `fault` is called before each step."""
    optimizer = optax.sgd(0.1, momentum=0.9)

    def finetune(pipeline, reward, prompts, **options):
        del reward, prompts

        def take_step(state, step):
            call.fault(step)
            noise = jr.normal(jr.fold_in(jr.key(5), step), (8,))
            gradient = state.trainable + noise
            updates, opt_state = optimizer.update(gradient, state.opt_state)
            weights = optax.apply_updates(state.trainable, updates)
            return Weights(weights, opt_state), jax.device_get(_figure(weights))

        run = Run(
            whole=lambda weights: pipeline,
            evaluation=None,
            stopping=draftx.Stopping(),
            cost=draftx.Budget(images=1),
            facts={"key": "5"},
            **{k: options[k] for k in ("num_train_steps", "callbacks", "checkpoints")},
        )
        weights = jnp.ones(8)
        return run.train(take_step, Weights(weights, optimizer.init(weights)))

    monkeypatch.setattr(training, "finetune", finetune)
    monkeypatch.setattr(training.Samples, "draw", _draw)
    flags = ["--model", str(model), "--max-train-steps", str(STEPS)]
    flags += ["--checkpoints.every", "2", "--rank", "2", "--train-batch-size", "1"]
    flags += ["--sampling.num-inference-steps", "2"]

    def call(folder, *more):
        return main(["train", "--output-dir", str(folder), *flags, *more])

    call.fault = lambda step: None
    return call


@pytest.fixture(scope="module")
def folder_without(tmp_path_factory):
    return tmp_path_factory.mktemp("without") / "run"


@pytest.fixture
def whole(command, folder_without):
    """What a run without any fault leaves."""
    if not folder_without.exists():
        assert command(folder_without) == 0
    return RunFolder(folder_without)


def _untimed(folder):
    timed = ("seconds", "images_per_second")
    rows = read_lines(folder.metrics)
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


def _assert_same(one, other):
    assert _untimed(one) == _untimed(other)
    assert len(_untimed(one)) == STEPS
    assert one.lora.read_bytes() == other.lora.read_bytes()
    first, second = (CheckpointStore(f.checkpoints).newest() for f in (one, other))
    assert first is not None
    assert second is not None
    assert first.step == second.step == STEPS
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name])


def _raise(error, at):
    """Once, before step `at`."""
    raised = []

    def fault(step):
        if step == at and not raised:
            raised.append(step)
            raise error

    return fault


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 GiB."
            ),
            "the device is out of memory. In this order: `--memory.remat step`",
        ),
        (MemoryError(), "the device is out of memory"),
    ],
)
def test_out_of_memory(command, whole, tmp_path, capsys, error, message):
    folder = RunFolder(tmp_path / "run")
    command.fault = _raise(error, at=3)
    assert command(folder.path) == 1
    said = capsys.readouterr().err
    assert f"draftx train: {message}" in said
    assert "--memory.images-at-once 1" in said
    assert "--gradient-accumulation-steps" in said
    assert "Traceback" not in said
    newest = CheckpointStore(folder.checkpoints).newest()
    assert newest is not None
    assert newest.step == 2
    assert not folder.lora.exists()
    assert command(folder.path) == 0
    _assert_same(folder, whole)


def _failing(monkeypatch, module, name, error, holds):
    """A function of the system that fails for paths of which `holds`."""
    function = getattr(module, name)

    def fail(*args, **options):
        if any(holds(str(x)) for x in args if isinstance(x, str | os.PathLike)):
            raise OSError(error, os.strerror(error), str(args[0]))
        return function(*args, **options)

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize(
    ("code", "module", "name", "place"),
    [
        # A checkpoint gets its name.
        (errno.ENOSPC, os, "rename", "step-00000004"),
        (errno.EIO, os, "rename", "step-00000004"),
        (errno.ESTALE, os, "rename", "step-00000004"),
        (errno.EROFS, os, "rename", "step-00000004"),
        # A file in it gets its own.
        (errno.EDQUOT, os, "replace", "state.safetensors"),
        # The disk takes what was written.
        (errno.EIO, os, "fsync", None),
        # A result, and a line of figures.
        (errno.ENOSPC, os, "replace", "lora.safetensors"),
        (errno.ENOSPC, pathlib.Path, "open", "metrics.jsonl"),
    ],
)
def test_a_disk_that_fails_is_said_and_loses_nothing(
    command, whole, tmp_path, capsys, code, module, name, place
):
    folder = RunFolder(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:

        def fault(step):
            if step == 3:
                if place is None:
                    full = lambda descriptor: (_ for _ in ()).throw(
                        OSError(code, os.strerror(code))
                    )
                    patch.setattr(os, "fsync", full)
                else:
                    _failing(patch, module, name, code, lambda path: place in path)

        command.fault = fault
        assert command(folder.path) == 1
    said = capsys.readouterr().err
    assert os.strerror(code) in said
    assert "What was saved before is as it was" in said
    assert "Traceback" not in said
    newest = CheckpointStore(folder.checkpoints).newest()
    assert newest is not None
    assert newest.step == (STEPS if place == "lora.safetensors" else 2)
    assert not folder.lora.exists()
    left = [p for p in folder.path.rglob(".*") if p.name != ".lock"]
    assert left == []
    command.fault = lambda step: None
    assert command(folder.path) == 0
    _assert_same(folder, whole)


def test_a_folder_that_is_deleted_meanwhile(command, whole, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    command.fault = lambda step: step == 3 and shutil.rmtree(folder.path)
    assert command(folder.path) == 1
    assert "metrics.jsonl': No such file or directory" in capsys.readouterr().err
    # Not half of a run under the name of a whole one.
    assert not folder.path.exists()
    command.fault = lambda step: None
    assert command(folder.path) == 0
    _assert_same(folder, whole)


def test_a_folder_that_nothing_can_be_written_in(command, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        _failing(patch, os, "open", errno.EROFS, lambda path: path.endswith(".lock"))
        assert command(tmp_path / "run") == 1
    assert "Read-only file system" in capsys.readouterr().err


def test_a_folder_that_is_a_link(command, whole, tmp_path):
    elsewhere, link = tmp_path / "disk" / "run", tmp_path / "run"
    elsewhere.mkdir(parents=True)
    link.symlink_to(elsewhere)
    command.fault = _raise(MemoryError(), at=3)
    assert command(link) == 1
    # By its other name it is the same run.
    assert command(elsewhere) == 0
    assert link.is_symlink()
    _assert_same(RunFolder(link), whole)


def test_a_clock_that_jumps(command, whole, tmp_path, monkeypatch):
    clock, now = iter(range(10**6)), time.time
    year = 365 * 24 * 3600
    jumping = lambda: now() + year * (-1) ** next(clock)
    monkeypatch.setattr(time, "time", jumping)
    folder = RunFolder(tmp_path / "run")
    assert command(folder.path) == 0
    _assert_same(folder, whole)
    seconds = [row["seconds"] for row in read_lines(folder.metrics)]
    assert seconds == sorted(seconds)
    assert 0 <= seconds[0] <= seconds[-1] < year / 2


def test_options_that_were_changed_are_shown(command, tmp_path, capsys):
    folder = tmp_path / "run"
    assert command(folder) == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for flags, line in (
        (["--rank", "3"], "  rank: was 2, is 3"),
        (["--seed", "1"], "  seed: was 0, is 1"),
        (["--reward", "incompressibility"], "is ['incompressibility']"),
        (["--model", "tiny"], "is 'tiny'"),
        (["--optimizer.weight-decay", "0.5"], "  optimizer.weight_decay: was "),
    ):
        assert command(folder, *flags) == 1
        said = capsys.readouterr().err
        assert "must be gone on with as it was begun; changed since:\n" in said
        assert line in said
        assert "`--checkpoints.allow-changes`" in said
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_same_seed_gives_the_same_bytes(command, whole, tmp_path):
    assert command(tmp_path / "again") == 0
    _assert_same(RunFolder(tmp_path / "again"), whole)
    assert command(tmp_path / "other", "--seed", "1") == 0
    other = RunFolder(tmp_path / "other")
    assert other.lora.read_bytes() != whole.lora.read_bytes()


def test_fewer_steps_than_were_taken_are_named_first(tmp_path, command, capsys):
    (tmp_path / "run" / "checkpoints" / "step-00000009").mkdir(parents=True)
    assert command(tmp_path / "run") == 1
    said = capsys.readouterr().err
    assert "`max_train_steps` must be at least 9, the steps that the run in" in said
    assert "loading" not in said


def test_ctrl_c_before_training_is_one_line(tmp_path, command, monkeypatch, capsys):
    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "make_rewards", interrupt)
    assert command(tmp_path / "run") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "draftx train: interrupted."


def test_a_reader_that_has_enough_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "draftx", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


def test_what_was_not_measured_again_is_not_compared(short_pipeline):
    before, history = [{"step": 0, "score": 1.0}], [{"step": 0}] * 22
    stopped = FinetuneResult(short_pipeline, history, before)
    assert training.summary(stopped).startswith("the adapter is that after 22 steps")
    after = FinetuneResult(
        short_pipeline, history, [*before, {"step": 22, "score": 2.0}]
    )
    assert "1 ->          2" in training.summary(after)
