"""A run that is killed twenty-five times, at any moment, ends as one that was not."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from draftx.io.checkpoints import CheckpointStore
from draftx.runs import open_run, RunFolder
from draftx.runs.folder._folder import read_lines


STEPS = 80
_REWARD = """
def redness(images):
    return images[..., 0].mean((1, 2)) - images[..., 1:].mean((1, 2, 3))
"""
# A checkpoint after each step, and so one that is deleted: most of the time of a step.
_FLAGS = (
    *("--max-train-steps", str(STEPS), "--train-batch-size", "1", "--rank", "2"),
    *("--sampling.num-inference-steps", "1", "--sampling.guidance-scale", "1"),
    *("--method.name", "draft", "--method.truncation-steps", "1"),
    *("--evaluation.every", "30", "--evaluation.batch-size", "1"),
    *("--checkpoints.every", "1", "--checkpoints.total-limit", "2"),
    *("--validation-steps", "70", "--num-validation-images", "1"),
)


@pytest.fixture
def start(model, tmp_path):
    """Begins a run in a folder, or goes on with it."""
    (tmp_path / "mine.py").write_text(_REWARD)
    (tmp_path / "prompts.txt").write_text("a cat\na do\n")
    flags = [*_FLAGS, "--model", str(model), "--held-out", "0.5"]
    flags += ["--reward", f"{tmp_path}/mine.py:redness"]
    flags += ["--prompts", f"{tmp_path}/prompts.txt"]
    # What one process has compiled the next one finds.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-m", "draftx", "train", "--output-dir", str(out), *flags],
            cwd=pathlib.Path(__file__).parents[2],
            env=os.environ | cache,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    return start


def _count(folder):
    """How many steps have a line: the last one may be half there."""
    path = folder.metrics
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _wait_for_steps(process, folder, count):
    end = time.monotonic() + 600
    while _count(folder) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)


def _untimed(rows):
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_moment_ends_as_one_that_was_not(start, tmp_path):
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    process = start(whole.path)
    _wait_for_steps(process, whole, 2)
    first = time.monotonic()
    _wait_for_steps(process, whole, STEPS)
    of_step = (time.monotonic() - first) / (STEPS - 2)
    process.communicate()
    assert process.returncode == 0

    rng = np.random.default_rng(0)
    # Before the first step, between steps and in them, and while results are written.
    moments = ["start"] * 4 + ["steps"] * 18
    rng.shuffle(moments)
    kills, inside = 0, 0
    for moment in [*moments, *["end"] * 3]:
        done = _count(parts)
        process = start(parts.path)
        if moment == "start":
            time.sleep(rng.uniform(0, 4))
        elif moment == "steps":
            _wait_for_steps(process, parts, min(done + 2, STEPS))
            time.sleep(rng.uniform(0, 2 * of_step))
        else:
            _wait_for_steps(process, parts, STEPS)
            time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        inside += any(parts.checkpoints.glob(".*"))
    process = start(parts.path)
    _, error = process.communicate()
    assert process.returncode == 0, error

    assert kills == 25
    # Some of the moments were those of a checkpoint that is written or deleted.
    assert inside > 0
    for name in ("metrics", "evaluations"):
        one, other = (read_lines(getattr(f, name)) for f in (whole, parts))
        assert len(one) == (STEPS if name == "metrics" else 4)
        assert _untimed(one) == _untimed(other)
    assert whole.lora.read_bytes() == parts.lora.read_bytes()
    one, other = (CheckpointStore(f.checkpoints).newest() for f in (whole, parts))
    assert one is not None
    assert other is not None
    assert one.step == other.step == STEPS
    # Adapter and optimizer.
    assert any("opt_state" in name for name in one.arrays)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes(), name
    assert open_run(parts.path).checkpoints == [STEPS - 1, STEPS]
    # Nothing is left over of what was half-written.
    assert not [p for p in parts.path.rglob(".*") if p.name != ".lock"]
