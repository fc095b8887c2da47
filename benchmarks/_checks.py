"""Stages of `gpu_session.py` that say what the machine is and whether it is right."""

import collections
import functools
import importlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _agreement import cosine, relative_error
from _context import Context
from _measure import compile_program, peaks, use_cache
from _models import chain_program, gradient_program, make_inputs

import draftx
from draftx.kernels import (
    AttentionShape,
    choose_attention,
    dot_product_attention,
    geglu,
    geglu_reference,
    group_norm,
    group_norm_reference,
    layer_norm,
    layer_norm_reference,
    lora_matmul,
    lora_matmul_reference,
    target_device,
)
from draftx.kernels.attention._dispatch import IMPLEMENTATIONS, refusal


# Queries, keys, head size; the first seven are Stable Diffusion 1.4's.
_ATTENTIONS = (
    (4096, 4096, 40),
    (1024, 1024, 80),
    (256, 256, 160),
    (64, 64, 160),
    (4096, 77, 40),
    (1024, 77, 80),
    (256, 77, 160),
    (1000, 333, 64),
)
_SMALL_ATTENTIONS = ((64, 64, 8), (64, 77, 8))
_TESTS = ("tests/models/test_parity.py", "tests/finetuning/test_gradient.py")
_LIMIT = 2e-2  # Of the relative error of bfloat16.
_COSINE = 0.99


def environment(context: Context) -> dict[str, Any]:
    """The device, versions and flags, and what the device really sustains."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    result: dict[str, Any] = {
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "platform": device.platform,
        "memory_gib": round(stats.get("bytes_limit", 0) / 2**30, 1) or None,
        "peaks": peaks(),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "draftx": draftx.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "runtime": getattr(device.client, "platform_version", "").splitlines()[:4],
    }
    context.save(result)
    size = 256 if context.small else 8192
    a, b = jr.normal(jr.key(0), (2, size, size), jnp.bfloat16)
    seconds = _best_seconds(lambda: a @ b)
    result["matmul_tflop_per_s"] = 2 * size**3 / seconds / 1e12
    copy = jax.jit(lambda x: x + jnp.asarray(1, x.dtype))
    large = jnp.ones((2**20 if context.small else 2**30,), jnp.bfloat16)
    result["copy_tb_per_s"] = (
        2 * large.nbytes / _best_seconds(lambda: copy(large)) / 1e12
    )
    return result


def _best_seconds(call) -> float:
    jax.block_until_ready(call())
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(5)])
        times.append((time.perf_counter() - start) / 5)
    return min(times)


def tests(context: Context) -> dict[str, Any]:
    """The golden tests of values and gradients, on this device, in full float32."""
    importlib.import_module("pytest")
    names = (*_TESTS, "tests/rewards")
    if context.small:
        names = (_TESTS[0], "-k", "unet_sd1")
    report = context.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not oracle", *names]
    # Warnings of another version of JAX than the tests were written for are no errors.
    command += ["-o", "filterwarnings=default", f"--junitxml={report}"]
    if importlib.util.find_spec("beartype") is None:
        command += ["-o", "addopts="]
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    done = subprocess.run(command, env=environment, check=False)
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    bad = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors")}
    return counts | {"passed": done.returncode == 0, "not_passed": bad[:40]}


def attention(context: Context) -> dict[str, Any]:
    """Attention and its VJP by every backend that can, against float32."""
    dtype, heads, rows = jnp.dtype("bfloat16"), 8, []
    for q_len, kv_len, head_dim in _SMALL_ATTENTIONS if context.small else _ATTENTIONS:
        about: dict[str, Any] = dict(
            device=target_device(),
            dtype=dtype,
            shape=AttentionShape(2, heads, q_len, kv_len, head_dim),
            is_causal=False,
        )
        shapes = [(2, n, heads, head_dim) for n in (q_len, kv_len, kv_len, q_len)]
        keys = jr.split(jr.key(q_len), 4)
        *qkv, d_out = (
            jr.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)
        )

        wide = lambda x: x.astype(jnp.float32)
        with jax.default_matmul_precision("highest"):
            wanted = _pull([wide(x) for x in qkv], wide(d_out), "reference")
        chosen = choose_attention(**about)
        can = [x for x in IMPLEMENTATIONS if refusal(x, **about) is None]
        for name in can:
            if name == "reference":
                continue
            row: dict[str, Any] = dict(q_len=q_len, kv_len=kv_len, head_dim=head_dim)
            row |= {"implementation": name, "chosen": name == chosen}
            got = _pull(qkv, d_out, name)
            for label, a, b in zip(("out", "dq", "dk", "dv"), got, wanted, strict=True):
                row[label] = relative_error(a, b)
            row["passed"] = max(row[x] for x in ("out", "dq", "dk", "dv")) < _LIMIT
            rows.append(row)
            context.save({"rows": rows})
    return {"rows": rows, "passed": all(row["passed"] for row in rows)}


def kernels(context: Context) -> dict[str, Any]:
    """Every other kernel and its VJP in bfloat16, against its definition in float32."""
    batch, size, channels = (2, 8, 32) if context.small else (4, 64, 320)
    keys = iter(jr.split(jr.key(0), 16))
    make = lambda *shape: jr.normal(next(keys), shape, jnp.bfloat16)
    image, row = make(batch, size, size, channels), make(channels)
    norm: dict[str, Any] = dict(num_groups=32, epsilon=1e-5, silu=True)
    weight, down, up = make(2 * channels, channels), make(8, channels), make(2, 8)
    up = jnp.tile(up, (channels, 1))
    merged = weight + up @ down
    cases = {
        "group_norm": (group_norm, group_norm_reference, (image, row, row), norm),
        "layer_norm": (
            layer_norm,
            layer_norm_reference,
            (image, row, row),
            dict(epsilon=1e-5),
        ),
        "geglu": (geglu, geglu_reference, (image,), {}),
        # The same weight: the definition adds the update itself.
        "lora_matmul": (
            lora_matmul,
            lambda x, w, d, u: lora_matmul_reference(x, w - u @ d, d, u, None),
            (image, merged, down, up),
            {},
        ),
    }
    rows = []
    for name, (kernel, reference, args, kwargs) in cases.items():
        # Gradients of frozen weights are not asked for.
        vjp = lambda fn, args, kwargs=kwargs: _out_and_input_gradient(fn, args, kwargs)
        wide = [x.astype(jnp.float32) for x in args]
        with jax.default_matmul_precision("highest"):
            wanted = vjp(reference, wide)
        got = vjp(kernel, args)
        errors = [relative_error(a, b) for a, b in zip(got, wanted, strict=True)]
        row = {"kernel": name, "out": errors[0], "d_x": errors[1]}
        rows.append(row | {"passed": max(errors) < _LIMIT})
        context.save({"rows": rows})
    return {"rows": rows, "passed": all(row["passed"] for row in rows)}


def _out_and_input_gradient(fn, args, kwargs):
    @jax.jit
    def both(args):
        out, pull = jax.vjp(lambda x: fn(x, *args[1:], **kwargs), args[0])
        d_out = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
        return out, pull(d_out.astype(out.dtype))[0]

    return both(tuple(args))


@functools.partial(jax.jit, static_argnums=2)
def _pull(args, d_out, implementation: str):
    """The result, and the gradients of all three arguments."""
    call = functools.partial(dot_product_attention, implementation=implementation)
    out, pullback = jax.vjp(call, *args)
    return out, *pullback(d_out)


def fused_calls(context: Context) -> dict[str, Any]:
    """What of the UNet's forward and backward pass goes to libraries, from the compiled
    text: every attention that was traced for cuDNN must be there as one call."""
    use_cache(str(context.cache))
    inputs = make_inputs(
        context.model, dtype="bfloat16", batch=context.batch, rank=8, only_shapes=True
    )
    program = chain_program(inputs, draftx.Sampling(1), 1)
    traced = str(jax.make_jaxpr(program.fn)(program.arrays))
    compiled, figures = compile_program(program)
    targets = re.findall(r'custom_call_target="([^"]+)"', compiled.as_text())
    counts = collections.Counter(targets)
    fused = sum(n for name, n in counts.items() if "fmha" in name)
    wanted = len(re.findall(r"dot_product_attention_(?:fwd|bwd)_wrapper\[", traced))
    return {
        "custom_calls": dict(counts.most_common()),
        "attention_calls_traced": wanted,
        "attention_calls_compiled": fused,
        "compile_s": figures["compile_s"],
        "passed": fused == wanted and (wanted > 0 or jax.default_backend() != "gpu"),
    }


def bfloat16_gradient(context: Context) -> dict[str, Any]:
    """DRaFT-2's gradient in bfloat16 beside that in float32 with the same weights."""
    use_cache(str(context.cache))
    inputs = make_inputs(context.model, dtype="bfloat16", batch=1, rank=8)

    def gradient(inputs):
        program = gradient_program(
            inputs,
            draftx.DRaFT(truncation_steps=2),
            draftx.Sampling(4),
            draftx.Memory("step"),
            reward=lambda x: -jnp.mean((x - 0.3) ** 2, axis=(1, 2, 3)),
        )
        compiled, _ = compile_program(program)
        rewards, gradient = compiled(program.arrays)
        leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(gradient)]
        return np.asarray(rewards, np.float64), np.concatenate(leaves)

    rewards, low = gradient(inputs)
    widen = lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
    arrays_wide = jax.tree.map(
        lambda x: widen(x) if isinstance(x, jax.Array) else x, inputs
    )
    with jax.default_matmul_precision("highest"):
        rewards_wide, high = gradient(arrays_wide)
    similarity = cosine(low, high)
    return {
        "cosine": similarity,
        "norm_ratio": float(np.linalg.norm(low) / np.linalg.norm(high)),
        "rewards_relative_error": relative_error(rewards, rewards_wide),
        "passed": similarity > _COSINE,
    }


def kernel(context: Context, *, name: str) -> dict[str, Any]:
    """One script of `benchmarks/kernels`."""
    rows = importlib.import_module(name).rows
    batch = 1 if context.small else 8
    return {"rows": rows(batch, context.small, jnp.dtype(context.dtype))}
