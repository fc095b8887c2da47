"""Times a kernel beside its baseline: one case, several variants, call by call."""

import argparse
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


# Sustained dense bfloat16 FLOP/s and bytes/s, by the name of a device.
PEAKS = {"H200": (790e12, 4.3e12)}
_WARMUPS = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """One size of one kernel.

    - `name`: What the table calls it.
    - `variants`: Functions of the same arguments, the plain-JAX baseline first.
    - `args`: Random arrays.
    - `argnums`: Those that are differentiated; the others are frozen.
    - `flops`, `nbytes`: Of the forward pass, and of both passes, for the algorithm:
        without recomputation, every array read or written once.
    """

    name: str
    variants: Mapping[str, Callable[..., jax.Array]]
    args: tuple[Any, ...]
    argnums: tuple[int, ...]
    flops: tuple[float, float]
    nbytes: tuple[float, float]


def normal(seed: int, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jr.normal(jr.key(seed), shape, dtype)


def size(*arrays: Any) -> int:
    """Bytes of arrays, or of their shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def _programs(case, fn):
    """The forward pass, and the forward pass with its VJP, as functions."""

    def partly(args):
        def of_differentiated(*diff):
            full = list(args)
            for i, x in zip(case.argnums, diff, strict=True):
                full[i] = x
            return fn(*full)

        return of_differentiated, [args[i] for i in case.argnums]

    def vjp(args, d_out):
        f, diff = partly(args)
        out, pullback = jax.vjp(f, *diff)
        return out, pullback(d_out)

    def residuals(args):
        f, diff = partly(args)
        return jax.vjp(f, *diff)[1]

    return (lambda args: fn(*args)), vjp, residuals


def _compiled(fn, *args):
    start = time.perf_counter()
    compiled = jax.jit(fn).lower(*args).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    temp = None if memory is None else memory.temp_size_in_bytes / 2**20
    return compiled, seconds, temp


def _calls(program, args):
    """Calls in one sample: on an accelerator, enough to hide what a call costs."""
    if jax.default_backend() == "cpu":
        return 1
    start = time.perf_counter()
    jax.block_until_ready(program(*args))
    return max(1, min(100, int(5e-3 / (time.perf_counter() - start))))


def measure(
    case: Case, *, repeats: int = 30, seconds: float = 4.0
) -> list[dict[str, Any]]:
    """**Arguments:**

    - `case`: What to measure.
    - `repeats`: Samples of each program, at most.
    - `seconds`: After so long there are no more, though at least three.

    **Returns:**

    A row a variant: milliseconds of both programs, seconds of compilation, MiB of
    temporaries and of what the forward pass keeps for the backward pass, and the
    fraction of the device's roofline if that is known.
    """
    out_shape = jax.eval_shape(next(iter(case.variants.values())), *case.args)
    d_out = normal(99, out_shape.shape, out_shape.dtype)
    rows, programs = [], []
    for name, fn in case.variants.items():
        forward, vjp, residuals = _programs(case, fn)
        row: dict[str, Any] = dict(case=case.name, variant=name)
        row["residual_mib"] = size(jax.eval_shape(residuals, case.args)) / 2**20
        try:
            for label, f, args in (
                ("forward", forward, (case.args,)),
                ("vjp", vjp, (case.args, d_out)),
            ):
                program, compile_seconds, temp = _compiled(f, *args)
                row[f"{label}_compile_s"] = compile_seconds
                row[f"{label}_temp_mib"] = temp
                for _ in range(_WARMUPS):
                    jax.block_until_ready(program(*args))
                programs.append((row, label, program, args, _calls(program, args), []))
        except jax.errors.JaxRuntimeError as e:  # Out of memory, most of the time.
            row["error"] = str(e).splitlines()[0]
        rows.append(row)
    start = time.perf_counter()
    for i in range(repeats):
        if i >= 3 and time.perf_counter() - start > seconds:
            break
        for _, _, program, args, calls, samples in programs:
            began = time.perf_counter()
            # Calls on one device end in their order.
            jax.block_until_ready([program(*args) for _ in range(calls)][-1])
            samples.append((time.perf_counter() - began) / calls)
    for row, label, *_, samples in programs:
        row[f"{label}_ms"] = 1e3 * float(np.median(samples))
        row[f"{label}_min_ms"] = 1e3 * min(samples)
        row[f"{label}_samples"] = len(samples)
        row[f"{label}_roofline"] = _roofline(case, label, row[f"{label}_ms"])
    return rows


def _roofline(case, label, milliseconds):
    """The time that FLOPs or bytes alone would take, over the time taken."""
    kind = jax.devices()[0].device_kind
    peaks = next((p for name, p in PEAKS.items() if name in kind), None)
    if peaks is None or case.args[0].dtype != jnp.bfloat16:
        return None
    i = ("forward", "vjp").index(label)
    bound = max(case.flops[i] / peaks[0], case.nbytes[i] / peaks[1])
    return bound / (1e-3 * milliseconds)


def _table(rows):
    columns = (
        ("forward_ms", "fwd ms", "{:.3f}"),
        ("vjp_ms", "fwd+vjp ms", "{:.3f}"),
        ("residual_mib", "residual MiB", "{:.2f}"),
        ("forward_temp_mib", "fwd temp MiB", "{:.1f}"),
        ("vjp_temp_mib", "vjp temp MiB", "{:.1f}"),
        ("vjp_compile_s", "compile s", "{:.2f}"),
        ("forward_roofline", "fwd roofline", "{:.0%}"),
        ("vjp_roofline", "vjp roofline", "{:.0%}"),
    )
    columns = [c for c in columns if any(r.get(c[0]) is not None for r in rows)]
    lines = [["case", "variant", *(title for _, title, _ in columns)]]
    for row in rows:
        cells = [
            "-" if row.get(key) is None else form.format(row[key])
            for key, _, form in columns
        ]
        lines.append([row["case"], row["variant"], *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        left = [c.ljust(w) for c, w in zip(line[:2], widths[:2], strict=True)]
        right = [c.rjust(w) for c, w in zip(line[2:], widths[2:], strict=True)]
        print("  ".join(left + right))


def main(rows: Callable[..., list[dict[str, Any]]], description: str | None) -> None:
    """The command line of a script: prints a table and, if asked to, writes JSON."""
    is_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1 if is_cpu else 8)
    parser.add_argument(
        "--small",
        action=argparse.BooleanOptionalAction,
        default=is_cpu,
        help="sizes for a CPU, the default there",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32" if is_cpu else "bfloat16",
    )
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write")
    args = parser.parse_args()
    result = rows(args.batch, args.small, jnp.dtype(args.dtype))
    about = dict(
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        batch=args.batch,
        dtype=args.dtype,
    )
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    _table(result)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(dict(**about, rows=result), indent=1) + "\n")
