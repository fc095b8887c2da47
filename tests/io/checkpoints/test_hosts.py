"""Two processes save one training together: one writes, or each writes its part."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest


def _free_port():
    with socket.socket() as sock:
        sock.bind(("localhost", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    "store", ["safetensors", pytest.param("orbax", marks=pytest.mark.oracle)]
)
def test_all_processes_save_and_find_the_same(store, tmp_path):
    port = str(_free_port())
    command = [sys.executable, "-m", "tests.io.checkpoints.hosts", store]
    processes = [
        subprocess.Popen(
            [*command, str(tmp_path), port, index],
            cwd=pathlib.Path(__file__).parents[3],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in "01"
    ]
    seen = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        seen.append(json.loads(out.splitlines()[-1]))
    for index, found in enumerate(seen):
        assert found.pop("index") == index
        (warned,) = found.pop("warned")
        assert ("it is damaged here", "another process")[1 - index] in warned
        split = {"split": True}
        if store == "safetensors":
            assert "`store` must be 'orbax' for arrays that are" in found.pop("refused")
            split = {}
        assert found == split | {
            "first": True,
            "saved 1": [1],
            "saved 2": [1, 2],
            "saved 3": [2, 3],
            "newest": 3,
            "same": True,
            "then": 2,
        }
