"""Writes checkpoints until it is killed: a process of its own.

Run as `python -m tests.io.checkpoints.writer STORE FOLDER FIRST`; every step has its
number in every array, and a line is printed when its checkpoint is written.
"""

import itertools
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

import draftx


def state(step):
    return {f"a{i}": np.full((50, 100), step + i, np.float32) for i in range(20)}


def kill_while_writing(store, folder, first, seconds):
    """Starts a writer, kills it after some time of writing, says what it wrote last."""
    command = [sys.executable, "-m", "tests.io.checkpoints.writer", store, str(folder)]
    root = pathlib.Path(__file__).parents[3]
    with subprocess.Popen(
        [*command, str(first)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        written = [int(process.stdout.readline())]
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        written += map(int, process.stdout.read().split())
    return max(written)


if __name__ == "__main__":
    name, folder, first = sys.argv[1:]
    store = draftx.Checkpoints(folder, total_limit=2, store=name).open()
    for step in itertools.count(int(first)):
        store.save(step, state(step), {"step": step})
        print(step, flush=True)
