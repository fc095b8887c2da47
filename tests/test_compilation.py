"""What programs are compiled with, and the cache of them on disk."""

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx._compilation import compiled, compiler_options, Program
from draftx.episodes import make_task
from draftx.finetuning import objective, split
from draftx.pipeline import starting_noise

from .finetuning.short import PROMPTS, SAMPLING
from .helpers import relative_error
from .io.tiny import random_lora
from .toys import toy_reward


SCHEDULER = "xla_cpu_scheduler_type"


@pytest.mark.parametrize(
    ("version", "has_option"), [("0.9.2", False), ("0.10.2", True), ("0.12.0", False)]
)
def test_options_are_those_of_the_version(monkeypatch, version, has_option):
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert (SCHEDULER in compiler_options("cpu")) == has_option


def test_options_are_those_of_the_platform_and_the_user(monkeypatch):
    assert SCHEDULER in compiler_options("cpu")
    assert SCHEDULER not in compiler_options("tpu")
    monkeypatch.setenv("XLA_FLAGS", f"--other=1 --{SCHEDULER}=mine")
    assert SCHEDULER not in compiler_options("cpu")
    (tpu_option,) = compiler_options("tpu")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", f"--{tpu_option}=16384")
    assert compiler_options("tpu") == {}


def test_the_installed_xla_knows_the_options(monkeypatch):
    asked = []
    jit = eqx.filter_jit
    note = lambda fn, **options: asked.append(options) or jit(fn, **options)
    monkeypatch.setattr(eqx, "filter_jit", note)
    double = compiled()(lambda x: x * 2)
    assert double(jnp.asarray(3.0)) == 6
    assert asked == [
        {"donate": "none", "compiler_options": compiler_options("cpu")},
    ]


@pytest.mark.parametrize(
    "known", [False, True], ids=["of an argument", "of a constant"]
)
def test_a_users_jit_and_grad_may_hold_our_programs(known):
    """JAX refuses options of the compiler there, even if no argument is traced."""
    cube = Program(lambda x: x**3)
    ours = lambda x: x * cube(jnp.asarray(2.0) if known else x)
    two, result = jnp.asarray(2.0), jnp.asarray(8.0 if known else 32.0)
    assert jax.jit(ours)(two) == 16
    assert jax.grad(ours)(two) == result
    assert jax.jit(jax.grad(ours))(two) == result
    assert jax.eval_shape(ours, two).shape == ()


def test_sampling_and_the_objective_inside_of_a_users_jit_and_grad(short_pipeline):
    pipeline = random_lora(short_pipeline, scale=0.3, targets=("attn2.to_v",))
    images = draftx.sample(pipeline, PROMPTS, SAMPLING)
    method = draftx.DRaFT(truncation_steps=1)
    _, expected = draftx.reward_gradient(
        pipeline, toy_reward, PROMPTS, SAMPLING, method=method
    )
    latents, key = starting_noise(pipeline, 2, SAMPLING, key=None, latents=None)
    table = draftx.Table.of(PROMPTS)
    task = make_task(pipeline, toy_reward, table, SAMPLING, shape=latents.shape)
    trainable, task = split(task)
    batch, ours = task.batch(latents, key), compiled()(objective)

    def both(trainable):
        value, _ = ours(trainable, task, method, batch)
        whole = eqx.combine(trainable, task.pipeline)
        return value, draftx.sample(whole, PROMPTS, SAMPLING)

    by_grad = eqx.filter_value_and_grad(both, has_aux=True)
    for call in (by_grad, eqx.filter_jit(by_grad)):
        (_, drawn), gradient = call(trainable)
        np.testing.assert_allclose(drawn, images, atol=1e-5)
        for mine, theirs in zip(
            *map(jax.tree.leaves, (gradient, expected)), strict=True
        ):
            assert relative_error(mine, theirs) < 1e-4


_PROGRAM = """
import sys, jax, jax.numpy as jnp, draftx
import logging; logging.basicConfig(level=logging.DEBUG)
draftx.enable_compilation_cache(sys.argv[1])
fn = lambda x: jnp.sin(x) * 3
draftx._compilation.compiled()(fn)(jnp.ones(7)).block_until_ready()
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
