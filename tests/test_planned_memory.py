"""What programs will need is compared with what the machine has, before they run."""

import subprocess
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx
from draftx import _planned_memory
from draftx._compilation import compiled
from draftx._planned_memory import (
    free_memory,
    planned_memory,
    PlannedMemory,
    warn_if_too_much,
)

from .finetuning.short import finetune


class _Noting(draftx.AbstractCallback):
    def __init__(self):
        self.facts = []

    def note(self, fact):
        self.facts.append(fact)

    def __call__(self, row, pipeline):
        pass


def test_a_plan_is_that_of_the_compiler():
    program = compiled()(lambda x: jnp.sum(jnp.sin(x @ x)) + x)
    plan = program.plan(jnp.ones((512, 512)))
    assert plan is not None
    assert plan.arguments == 512 * 512 * 4
    # The result, and the product that is summed.
    assert 2 * 512 * 512 * 4 <= plan.beyond < 3 * 512 * 512 * 4
    assert plan == planned_memory(
        program.lower(jnp.ones((512, 512))).compile()
    )._replace(free=plan.free)
    assert eqx.filter_jit(lambda x: x * (program.plan(x) is None))(1.0) == 1


def test_a_plan_costs_no_other_compilation():
    seen = []
    listen = lambda event, duration_secs, **_: seen.append(event)
    program = compiled()(lambda x: jnp.cos(x) * 3)
    x = jnp.ones(3)
    program.plan(x)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        program(x)
        program.plan(x)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in seen if "compile" in event]


def test_the_machine_and_its_control_group_say_what_is_free(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    7 kB\n")
    monkeypatch.setattr(_planned_memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(_planned_memory, "_GROUP", tmp_path)
    assert free_memory(jax.devices()) == 7 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4000\n")
    assert free_memory(jax.devices()) == 7 * 1024
    (tmp_path / "memory.max").write_text("6000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 500\n")
    assert free_memory(jax.devices()) == 2500
    meminfo.unlink()
    (tmp_path / "memory.max").unlink()
    assert free_memory(jax.devices()) is None


def test_a_plan_is_one_line():
    plan = PlannedMemory(3 * 2**30, 2**29, 2**28)
    assert str(plan) == (
        "3.5 GiB of memory are planned, 3.0 GiB of them weights and other inputs; "
        "256 MiB are free"
    )
    assert not plan.fits
    with pytest.warns(
        UserWarning, match="It may not .* needs 512 MiB, and 256 MiB are"
    ):
        warn_if_too_much(plan, "It", "Buy more.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_too_much(None, "It", "")
        warn_if_too_much(plan._replace(free=None), "It", "")
        warn_if_too_much(plan._replace(free=2**29), "It", "")


def test_a_training_says_its_plan_and_is_not_stopped(short_pipeline, monkeypatch):
    # As of the tests of training, which share its program.
    key, noting = jr.key(0), _Noting()
    adapted = draftx.add_lora(short_pipeline, rank=2, targets=["proj_out"], key=key)
    options = dict(num_train_steps=1, callbacks=(noting,))
    finetune(adapted, **options)
    (fact,) = noting.facts
    assert fact.endswith("are free")
    monkeypatch.setattr(_planned_memory, "free_memory", lambda devices: 2**10)
    with pytest.warns(UserWarning, match="A training step may not fit .* `remat`"):
        result = finetune(adapted, **options)
    assert len(result.history) == 1


def test_drawing_large_images_warns(base_pipeline, monkeypatch):
    monkeypatch.setattr(_planned_memory, "free_memory", lambda devices: 2**10)
    monkeypatch.setattr(draftx.pipeline._sample, "_MANY_PIXELS", 16 * 16)
    sampling = draftx.Sampling(num_inference_steps=1)
    with pytest.warns(UserWarning, match="Drawing these images .*`images_at_once`"):
        draftx.sample(base_pipeline, ["cat"], sampling)


_FREED = """
import ctypes
from draftx._planned_memory import give_back_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
# Small pieces, of which a heap is made; one in between that stays, at its end.
pieces = [libc.malloc(2**16) for _ in range(2**12)]
for piece in pieces:
    ctypes.memset(piece, 1, 2**16)
for piece in pieces[:-1]:
    libc.free(ctypes.c_void_p(piece))
before = resident()
give_back_memory()
print(before - resident() > 2**27)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_a_compiler_left_behind_is_given_back():
    done = subprocess.run(
        [sys.executable, "-c", _FREED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_where_there_is_no_glibc_nothing_is_given_back(monkeypatch):
    def refuse(name):
        raise OSError(name)

    monkeypatch.setattr(_planned_memory.ctypes, "CDLL", refuse)
    _planned_memory.give_back_memory()
