"""Stages of `gpu_session.py` that say where time goes, by kind of kernel.

A trace of the profiler is read event by event; the name of a kernel and of the
operation that it came from decide its kind.
"""

import collections
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from _context import Context
from _measure import compile_program, time_program, use_cache
from _models import chain_program, decoder_program, make_inputs, Program
from jax.profiler import ProfileData

import draftx


# In this order: the first that matches a kernel's name or its operation's.
_KINDS = (
    ("attention", r"fmha|sdpa|flash|mha_"),
    (
        "copy",
        r"memcpy|memset|transpose|copy|concatenat|dynamic.update.slice"
        r"|nchwtonhwc|nhwctonchw",
    ),
    (
        "convolution",
        r"conv(?!ert)|implicit_gemm|fprop|dgrad|wgrad|winograd|xmma.*(nhwc|nchw)",
    ),
    ("matrix product", r"gemm|nvjet|cublas|cutlass|dot|matmul|splitk"),
    ("norms, elementwise", r"fusion|reduce|loop|broadcast|convert|wrapped|triton|norm"),
)
OTHER = "other"


def kind_of(name: str, operation: str = "") -> str:
    """The kind of a kernel, by its own name or its operation's."""
    text = f"{name} {operation}".lower()
    return next((kind for kind, words in _KINDS if re.search(words, text)), OTHER)


def unet(context: Context) -> dict[str, Any]:
    """One evaluation of the UNet in a loop, and one with its backward pass."""
    inputs = _inputs(context)
    steps = 2 if context.small else 10
    forward = chain_program(inputs, draftx.Sampling(steps), 0)
    both = chain_program(inputs, draftx.Sampling(2), 2)
    result = {"forward": attribute(context, forward, evaluations=steps)}
    context.save(result)
    result["forward and backward"] = attribute(context, both, evaluations=2)
    return result


def decoder(context: Context) -> dict[str, Any]:
    """The decoder for a whole batch, and its gradient."""
    inputs = _inputs(context)
    forward = decoder_program(inputs, differentiate=False)
    both = decoder_program(inputs, differentiate=True)
    result = {"decode": attribute(context, forward, evaluations=1)}
    context.save(result)
    result["decode and backward"] = attribute(context, both, evaluations=1)
    return result


def _inputs(context: Context):
    use_cache(str(context.cache))
    return make_inputs(context.model, dtype=context.dtype, batch=context.batch, rank=8)


def attribute(
    context: Context, program: Program, *, evaluations: int
) -> dict[str, Any]:
    """**Returns:**

    - `wall_ms`: Of one evaluation, by the clock, without the profiler.
    - `kinds_ms`: Of one evaluation, by kind, and their sum, `total`.
    - `top`: The kernels that take longest, with their kind, calls and share.
    """
    compiled, _ = compile_program(program)
    calls = 3
    times = time_program(compiled, program.arrays, repeats=calls)
    folder = context.work / "trace"
    shutil.rmtree(folder, ignore_errors=True)
    with jax.profiler.trace(str(folder)):
        for _ in range(calls):
            jax.block_until_ready(compiled(program.arrays))
    (path,) = folder.rglob("*.xplane.pb")
    events = list(kernels(ProfileData.from_file(str(path))))
    shutil.rmtree(folder)
    result = totals(events, evaluations=calls * evaluations)
    return {"wall_ms": 1e3 * times["seconds"] / evaluations} | result


def kernels(profile: Any) -> Iterator[tuple[str, str, float]]:
    """Name, operation and nanoseconds of all that ran on devices.

    Events of a GPU are on its own planes, one line a stream; those of a CPU on the
    host's, marked by an operation.
    """
    planes = list(profile.planes)
    on_gpu = [p for p in planes if p.name.startswith("/device:GPU")]
    for plane in on_gpu or planes:
        for line in plane.lines:
            # Other lines of a device sum up what the streams did.
            if on_gpu and "Stream" not in line.name:
                continue
            for event in line.events:
                stats = {key: value for key, value in event.stats if key == "hlo_op"}
                if not on_gpu and "hlo_op" not in stats:
                    continue
                yield event.name, str(stats.get("hlo_op", "")), event.duration_ns


def totals(
    events: Iterable[tuple[str, str, float]], *, evaluations: int
) -> dict[str, Any]:
    """Sums of `kernels` by kind and by name, for one evaluation."""
    kinds: collections.defaultdict[str, float] = collections.defaultdict(float)
    names: collections.defaultdict[tuple[str, str], float]
    names = collections.defaultdict(float)
    calls: collections.Counter[tuple[str, str]] = collections.Counter()
    for name, operation, nanoseconds in events:
        kind = kind_of(name, operation)
        milliseconds = nanoseconds / 1e6 / evaluations
        kinds[kind] += milliseconds
        # A loop's operations are numbered; kernels of one sort belong together.
        sort = (kind, re.sub(r"[._]\d+(?=[._]|$)", "", name)[:100])
        names[sort] += milliseconds
        calls[sort] += 1
    total = sum(kinds.values())
    top = [
        {
            "kind": kind,
            "name": name,
            "ms": milliseconds,
            "calls": calls[kind, name] / evaluations,
            "share": milliseconds / total,
        }
        for (kind, name), milliseconds in _largest(names)[:25]
    ]
    return {"kinds_ms": dict(_largest(kinds)) | {"total": total}, "top": top}


def _largest(sums: dict[Any, float]) -> list[tuple[Any, float]]:
    return sorted(sums.items(), key=lambda item: -item[1])
