import os
import subprocess
import sys

import jax
import pytest

import draftx


@pytest.fixture
def machine(monkeypatch):
    """Six cores, and what JAX is told."""
    asked = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(6)}, raising=False)
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    monkeypatch.setenv("XLA_FLAGS", "")
    return asked


@pytest.mark.parametrize(("batch_size", "count"), [(4, 4), (5, 5), (7, 1), (8, 4)])
def test_a_batch_is_split_evenly_over_the_cores(machine, batch_size, count):
    draftx.split_cpu(batch_size)
    assert machine == {"jax_num_cpu_devices": count}
    assert "eigen" not in os.environ["XLA_FLAGS"]  # Some cores have no device.


def test_as_many_devices_as_are_wanted(machine):
    draftx.split_cpu(8, devices=2)
    assert machine == {"jax_num_cpu_devices": 2}
    with pytest.raises(ValueError, match="`devices` must be a whole number"):
        draftx.split_cpu(8, devices=0)


def test_a_device_for_each_core_has_one_thread(machine, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--other=1")
    draftx.split_cpu(6)
    flags = "--other=1 --xla_cpu_multi_thread_eigen=false"
    assert os.environ["XLA_FLAGS"] == flags
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")
    draftx.split_cpu(6)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true"


def test_the_installed_xla_knows_the_flags():
    code = (
        "import draftx, jax, jax.numpy as jnp; draftx.split_cpu(64); "
        "jax.jit(jnp.sin)(jnp.ones(3))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_devices_that_are_in_use_stay(monkeypatch):
    before = jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--other=1")
    draftx.split_cpu(64)
    assert jax.devices() == before
    assert os.environ["XLA_FLAGS"] == "--other=1"
