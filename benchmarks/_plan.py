"""A compiled program's time as its kernels, bytes and products say: an estimate.

A kernel takes the longest of its bytes, its products and the time of the smallest
kernel; on a TPU what the compiler estimates itself, `estimated_cycles`, where it does.
What is inside a loop counts as often as the loop turns.
"""

import collections
from typing import Any, NamedTuple

from _hlo import Computation, Instruction, Module
from _hlo_work import FREE, Work, work_of
from _targets import Target


# A loop with fewer is no step of a chain, but a layer computed in chunks.
_LEAST_KERNELS = 100


class Kernel(NamedTuple):
    """One kernel of a part of a program.

    **Arguments:**

    - `work`: What it has to do.
    - `seconds`: The estimate of one run.
    - `times`: How often it runs whenever its part runs.
    - `source`: JAX's name of what it was compiled from.
    - `operation`: XLA's.
    """

    work: Work
    seconds: float
    times: int
    source: str
    operation: str


class Part(NamedTuple):
    """A loop's body, or what is in none.

    **Arguments:**

    - `name`: What it is.
    - `times`: How often it runs in a whole call.
    - `kernels`: What one run consists of, those of inner loops included.
    """

    name: str
    times: int
    kernels: list[Kernel]

    def figures(self, target: Target) -> dict[str, Any]:
        """Plain figures of one run."""
        kinds: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0, 0, 0])
        for kernel in self.kernels:
            row = kinds[kernel.work.kind]
            row[0] += kernel.times
            row[1] += kernel.times * kernel.seconds * 1e3
            row[2] += kernel.times * kernel.work.nbytes / 2**30
            row[3] += kernel.times * kernel.work.flops / 1e12
        floor = sum(k.times * target.floor(k.work) for k in self.kernels) * 1e3
        columns = ("kernels", "ms", "gib", "tflop")
        return {
            "part": self.name,
            "times": self.times,
            "ms": sum(row[1] for row in kinds.values()),
            "floor_ms": floor,
            "kernels": sum(int(row[0]) for row in kinds.values()),
            "gib": sum(row[2] for row in kinds.values()),
            "tflop": sum(row[3] for row in kinds.values()),
            "kinds": {
                kind: dict(zip(columns, row, strict=True))
                for kind, row in sorted(kinds.items(), key=lambda item: -item[1][1])
            },
        }


def parts_of(module: Module, target: Target) -> list[Part]:
    """Divides a program: each loop over the steps of a chain is a part of its own.

    **Arguments:**

    - `module`: The program.
    - `target`: What it was compiled for.
    """
    parts: list[Part] = []
    entry = module.computations[module.entry]
    rest: list[Kernel] = []
    _walk(module, target, entry, 1, rest, parts)
    parts.append(Part("once a call", 1, rest))
    return parts


def _walk(
    module: Module,
    target: Target,
    where: Computation,
    times: int,
    kernels: list[Kernel],
    parts: list[Part] | None,
) -> None:
    """Adds the kernels of a computation, `times` each, and its loops to `parts` unless
    that is None: then what they contain is added too."""
    for instruction in where:
        if instruction.operation == "while":
            body = module.computations[_name_of(instruction, "body")]
            trips = _trips(module, where, instruction)
            inner: list[Kernel] = []
            _walk(module, target, body, 1, inner, None)
            if parts is not None and len(inner) > _LEAST_KERNELS:
                parts.append(Part(_step_name(inner), trips, inner))
            else:
                kernels += [k._replace(times=k.times * trips * times) for k in inner]
        elif instruction.operation in ("call", "conditional"):
            for name in instruction.called:
                computation = module.computations[name]
                _walk(module, target, computation, times, kernels, parts)
        elif instruction.operation not in FREE:
            work = work_of(module, where, instruction)
            seconds = target.seconds(instruction, work)
            name = instruction.operation
            kernels.append(Kernel(work, seconds, times, instruction.source, name))


def _step_name(kernels: list[Kernel]) -> str:
    is_decoder = any("draftx.decode" in kernel.source for kernel in kernels)
    is_backward = any("rematted_computation" in kernel.source for kernel in kernels)
    what = "decoder" if is_decoder else "step"
    return f"differentiated {what}" if is_backward else f"frozen {what}"


def _name_of(instruction: Instruction, role: str) -> str:
    return instruction.attribute(rf"{role}=%?([\w.\-]+)") or ""


def _trips(module: Module, where: Computation, loop: Instruction) -> int:
    """How often a loop turns: what XLA knows of it, or the bound of its condition."""
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known is not None:
        return int(known)
    condition = module.computations[_name_of(loop, "condition")]
    (start,) = where.operands(loop)
    # What the condition compares: a carried count with a constant, carried or not.
    begins = [
        _constant(where, start.operands[int(value.attribute(r"index=(\d+)") or 0)])
        for value in condition
        if value.operation == "get-tuple-element" and value.arrays[0].dims == ()
    ]
    bounds = [
        int(value.attribute(r"^(-?\d+)") or 0)
        for computation in module.within(condition)
        for value in computation
        if _is_count(value)
    ]
    numbers = [*begins, *bounds]
    if len(numbers) != 2 or None in numbers:
        raise ValueError(f"The loop {loop.name!r} must have a known bound: {numbers}")
    return max(numbers) - min(numbers)


def _constant(where: Computation, name: str) -> int | None:
    value = where.instructions[name]
    while value.operation in ("copy", "bitcast"):
        (value,) = where.operands(value)
    return int(value.attribute(r"^(-?\d+)") or 0) if _is_count(value) else None


def _is_count(instruction: Instruction) -> bool:
    kinds = ("s32", "u32", "s64", "u64")
    is_constant = instruction.operation == "constant"
    return is_constant and instruction.arrays[0].dtype in kinds


def largest(parts: list[Part], count: int) -> list[dict[str, Any]]:
    """The kernels, alike ones together, that take most of a whole call."""
    rows: dict[tuple, list[float]] = collections.defaultdict(lambda: [0, 0, 0, 0])
    for part in parts:
        for kernel in part.kernels:
            row = rows[part.name, kernel.work.kind, kernel.source]
            row[0] += kernel.times
            row[1] += kernel.times * kernel.seconds * 1e3
            row[2] += kernel.times * kernel.work.nbytes / 2**20
            row[3] += kernel.times * kernel.work.flops / 1e9
    ordered = sorted(rows.items(), key=lambda item: -item[1][1])
    columns = ("kernels", "ms", "mib", "gflop")
    return [
        {"part": part, "kind": kind, "source": source}
        | dict(zip(columns, row, strict=True))
        for (part, kind, source), row in ordered[:count]
    ]


def totals(parts: list[Part], target: Target) -> dict[str, Any]:
    """Of a whole call: seconds, the floor, the floor's share, launches; collectives and
    calls that nothing is known of, by name."""
    seconds = floor = launches = 0.0
    collectives: dict[str, int] = collections.Counter()
    opaque: set[str] = set()
    for part in parts:
        for kernel in part.kernels:
            runs = part.times * kernel.times
            seconds += runs * kernel.seconds
            floor += runs * target.floor(kernel.work)
            launches += runs
            if kernel.work.kind == "collectives":
                collectives[f"{kernel.operation}, {part.name}"] += runs
            if kernel.work.is_opaque:
                opaque.add(kernel.work.kind)
    return {
        "seconds": seconds,
        "floor_s": floor,
        "share": floor / max(seconds, 1e-12),
        "launches": int(launches),
        "collectives": dict(collectives),
        "opaque": sorted(opaque),
    }
