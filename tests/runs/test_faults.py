"""Faults of machines: each said in a line, with nothing that was saved lost."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from draftx.io import ModelFileError
from draftx.io.checkpoints import CheckpointStore
from draftx.runs import main, RunInUseError
from draftx.runs.commands._faults import explain


_WRITE = """
import resource, signal, sys
import numpy as np
from draftx.io.checkpoints import CheckpointStore

# As on a full disk, no file can grow beyond this.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = CheckpointStore(sys.argv[1])
store.save(1, {"x": np.zeros(10)}, {})
try:
    store.save(2, {"x": np.random.default_rng(0).normal(size=100_000)}, {})
except OSError as error:
    print(type(error).__name__)
"""


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("OSError\n", 0), done.stderr
    assert os.listdir(tmp_path) == ["step-00000001"]
    newest = CheckpointStore(tmp_path).newest()
    assert newest is not None
    np.testing.assert_array_equal(newest.arrays["x"], np.zeros(10))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("`rank` must be"), "`rank` must be"),
        (ModelFileError("'a' is no file"), "'a' is no file"),
        (RunInUseError("process 3"), "process 3"),
        (
            OSError(28, "No space left on device", "run/metrics.jsonl"),
            "'run/metrics.jsonl': No space left on device. What was saved before",
        ),
        (OSError("could not be written: disk"), "could not be written: disk"),
        (PermissionError(13, "Permission denied", "run"), "'run': Permission denied"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
            "--memory.images-at-once 1.*JAX said: RESOURCE_EXHAUSTED: Out of memory$",
        ),
        (MemoryError(), "--memory.remat step.*JAX said: MemoryError"),
    ],
)
def test_what_is_said(error, message):
    text = explain(error)
    assert text is not None
    with pytest.raises(ValueError, match=message):
        raise ValueError(text)


def test_mistakes_of_the_program_keep_their_traceback():
    assert explain(TypeError("x")) is None
    assert explain(jax.errors.JaxRuntimeError("INTERNAL: x")) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    place = tmp_path / "file"
    place.write_text("")
    # Root may write anywhere, but not into a file.
    assert main(["train", "--output-dir", str(place / "run")]) == 1
    told = capsys.readouterr().err
    assert "`output_dir` must be a folder, or the name of a new one" in told
    assert f"{str(place)!r} is a file. Choose another name." in told
