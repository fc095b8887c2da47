"""Two processes that compute together, as on hosts of their own: how they are started,
and what each of them does (`python -m tests.hosts WORK`), printed as a line of JSON.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax

import draftx
from draftx import _hosts

from .finetuning.test_mesh import flat, toy, toy_gradient


def start_hosts(*commands):
    """Starts Python with the arguments of each host; gives the processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    where = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
    where["JAX_NUM_PROCESSES"] = str(len(commands))
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=pathlib.Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | where | {"JAX_PROCESS_ID": str(index)},
        )
        for index, command in enumerate(commands)
    ]


def agreements():
    """What one does and says for both, and how an error of one ends both."""
    index = jax.process_index()

    def fails():
        raise ValueError("a file of mine is missing")

    def outcome(call):
        try:
            return call()
        except Exception as e:
            return f"{type(e).__name__}: {e}"

    fails_on_second = fails if index == 1 else lambda: None
    return {
        "first": _hosts.on_first(lambda: {"π": [index, None, 0.1]}),
        "numbers": sorted(_hosts.heard_of_all(5 + index)),
        "error of the first": outcome(lambda: _hosts.on_first(fails)),
        "values": outcome(lambda: _hosts.on_each(lambda: index)),
        "error of one": outcome(lambda: _hosts.on_each(fails_on_second)),
        "alike": outcome(lambda: _hosts.check_alike("rows", "a\nb")),
        "not alike": outcome(lambda: _hosts.check_alike("rows", f"a\nb{index}")),
        "then": sorted(_hosts.heard_of_all(1)),
    }


def gradient():
    """The gradient of a batch that is divided over both."""
    pipeline = draftx.shard(toy(), f"data={jax.device_count()}")
    return {"gradient": flat(toy_gradient(pipeline, "step")).tolist()}


if __name__ == "__main__":
    _hosts.join_hosts(60)
    found = {"agreements": agreements, "gradient": gradient}[sys.argv[1]]()
    print(json.dumps(found), flush=True)
