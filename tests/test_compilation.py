"""The cache of compiled programs: filled by one process, used by the next."""

import os
import subprocess
import sys

import pytest

import draftx


_PROGRAM = """
import sys, jax, jax.numpy as jnp, draftx
import logging; logging.basicConfig(level=logging.DEBUG)
draftx.enable_compilation_cache(sys.argv[1])
jax.jit(lambda x: jnp.sin(x) * 3)(jnp.ones(7)).block_until_ready()
"""


def test_second_process_finds_what_the_first_compiled(tmp_path):
    logs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(tmp_path / "cache")],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ, JAX_PLATFORMS="cpu"),
        )
        logs.append(done.stderr)
    hit = "Persistent compilation cache hit for 'jit__lambda"
    assert hit not in logs[0]
    assert hit in logs[1]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`folder` must be a folder"):
        draftx.enable_compilation_cache(tmp_path / "file")
