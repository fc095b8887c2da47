"""Writes checkpoints until it is killed: a process of its own.

Run as `python -m tests.io.checkpoints.writer FOLDER FIRST`; every step has its number
in every array, and a line is printed when its checkpoint is written.
"""

import itertools
import sys

import numpy as np

from draftx.io.checkpoints import CheckpointStore


def state(step):
    return {f"a{i}": np.full((50, 100), step + i, np.float32) for i in range(20)}


if __name__ == "__main__":
    store = CheckpointStore(sys.argv[1], total_limit=2)
    for step in itertools.count(int(sys.argv[2])):
        store.save(step, state(step), {"step": step})
        print(step, flush=True)
