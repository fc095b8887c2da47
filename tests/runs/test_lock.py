"""Two processes never work in one folder, and a dead one does not keep it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from draftx.runs import FolderLock, RunInUseError


_HOLD = """
import pathlib, sys, time
from draftx.runs import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_told_at_once_and_gets_in_after_a_kill(tmp_path):
    folder = tmp_path / "new" / "run"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        start = time.perf_counter()
        message = f"run' must be used by one process at a time; process {process.pid} "
        with pytest.raises(RunInUseError, match=message), FolderLock(folder):
            pass
        assert time.perf_counter() - start < 1
        process.send_signal(signal.SIGKILL)
    with FolderLock(folder):
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"


def test_it_is_let_go_of_and_not_handed_to_children(tmp_path):
    with FolderLock(tmp_path):
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
        )
        with pytest.raises(RunInUseError), FolderLock(tmp_path):
            pass
    with FolderLock(tmp_path):
        pass
    child.communicate(b"\n")
    with pytest.raises(ZeroDivisionError), FolderLock(tmp_path):
        _ = 1 / 0
    with FolderLock(tmp_path):
        pass


def test_a_folder_that_was_made_for_nothing_goes(tmp_path):
    new, empty, used = tmp_path / "new", tmp_path / "empty", tmp_path / "used"
    empty.mkdir()
    for folder in (new, empty):
        with FolderLock(folder):
            pass
    with FolderLock(used):
        (used / "config.toml").touch()
    assert not new.exists()
    assert [path.name for path in empty.iterdir()] == [".lock"]
    assert (used / "config.toml").is_file()


@pytest.mark.parametrize("name", ["notes.txt", "notes.txt/run"])
def test_a_file_is_no_folder_of_a_run(tmp_path, name):
    (tmp_path / "notes.txt").write_text("mine")
    message = r"`output_dir` must be a folder.*notes.txt' is a file. Choose another"
    with pytest.raises(ValueError, match=message), FolderLock(tmp_path / name):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"
