"""What a compiled program will need, beside what the machine has."""

import contextlib
import ctypes
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax


_MEMINFO = pathlib.Path("/proc/meminfo")
_GROUP = pathlib.Path("/sys/fs/cgroup")
_GIB = 2**30


class PlannedMemory(NamedTuple):
    """Says how many bytes a program needs by the compiler's plan.

    **Arguments:**

    - `arguments`: Weights and other inputs, which are there already.
    - `beyond`: All else at its peak.
    - `free`: What the machine or the device has left for that; `None` if unknown.
    """

    arguments: int
    beyond: int
    free: int | None

    def __str__(self) -> str:
        text = (
            f"{_size(self.arguments + self.beyond)} of memory are planned, "
            f"{_size(self.arguments)} of them weights and other inputs"
        )
        return text if self.free is None else f"{text}; {_size(self.free)} are free"

    @property
    def fits(self) -> bool:
        """Whether there is as much, as far as it is known."""
        return self.free is None or self.beyond <= self.free


def planned_memory(compiled: Any) -> PlannedMemory | None:
    """Reads the plan of a compiled program, for all devices of this host.

    **Arguments:**

    - `compiled`: What `equinox.filter_jit(fn).lower(...).compile()` gives, or JAX's.

    **Returns:**

    `None` where the compiler does not say.
    """
    compiled = getattr(compiled, "compiled", compiled)
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    beyond = plan.temp_size_in_bytes + plan.output_size_in_bytes
    beyond -= plan.alias_size_in_bytes
    shardings = jax.tree.leaves(compiled.input_shardings)
    devices = {device for sharding in shardings for device in sharding.device_set}
    here = [device for device in devices if device.process_index == jax.process_index()]
    # Devices of a CPU have one memory.
    times = len(here) if here and here[0].platform == "cpu" else 1
    arguments = times * plan.argument_size_in_bytes
    return PlannedMemory(arguments, times * beyond, free_memory(here))


def free_memory(devices: Sequence[Any]) -> int | None:
    """Finds how many bytes are free where a program is to run; `None` if unknown.

    **Arguments:**

    - `devices`: Of one kind. Those of a CPU share what the machine has, or what its
        control group may still use; of others it is the one with the least.
    """
    if devices and devices[0].platform != "cpu":
        known = [device.memory_stats() or {} for device in devices]
        left = [
            of_one["bytes_limit"] - of_one["bytes_in_use"]
            for of_one in known
            if {"bytes_limit", "bytes_in_use"} <= of_one.keys()
        ]
        return min(left, default=None)
    left = [_of_machine(), _of_group()]
    return min((size for size in left if size is not None), default=None)


def warn_if_too_much(plan: PlannedMemory | None, what: str, remedy: str) -> None:
    """Warns of a program that may not fit. It is run in any case: plans are cautious.

    **Arguments:**

    - `plan`: Of the program; `None` if it is not known.
    - `what`: It does, "A training step".
    - `remedy`: What makes it less.
    """
    if plan is None or plan.fits:
        return
    warnings.warn(
        f"{what} may not fit into memory: beside what is there already it needs "
        f"{_size(plan.beyond)}, and {_size(plan.free or 0)} are free. {remedy}",
        stacklevel=3,
    )


def _of_machine() -> int | None:
    return _number_after("MemAvailable:", _MEMINFO, 1024)


def _of_group() -> int | None:
    """What a container may still use; files that it has read make room."""
    limit = _number_after("", _GROUP / "memory.max")
    used = _number_after("", _GROUP / "memory.current")
    if limit is None or used is None:
        return None
    files = _number_after("inactive_file ", _GROUP / "memory.stat") or 0
    return max(limit - used + files, 0)


def _number_after(label: str, path: pathlib.Path, unit: int = 1) -> int | None:
    try:
        word = path.read_text().partition(label)[2] if label else path.read_text()
    except OSError:
        return None
    word = (word.split() or [""])[0]
    return int(word) * unit if word.isdigit() else None


def _size(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / 2**20:.0f} MiB"


def give_back_memory() -> None:
    """Gives memory that is free again back to the system, where glibc would keep it.

    A compiler leaves more than a gigabyte of it behind at Stable Diffusion's size.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
