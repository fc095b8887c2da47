"""Several programs that compute the same: each called once and compared, then timed in
turns."""

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from _agreement import compare
from _cases import Setting
from _measure import MIB


@dataclasses.dataclass
class Variant:
    """A way of computing a case.

    - `call`: Computes, waits for the device, and returns the result.
    - `role`: `"default"`, `"variant"`, or `"apart"`: shown, but never the best.
    - `figures`: What is known beside times: memory, compile seconds, failures.
    """

    framework: str
    name: str
    call: Callable[[], Any]
    role: str = "variant"
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)

    def time(self) -> None:
        gc.collect()
        time.sleep(0.02)  # Threads of the other framework that still spin go to sleep.
        cpu, start = time.process_time(), time.perf_counter()
        self.call()
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu)

    def fail(self, error: Exception) -> None:
        self.figures["note"] = "failed: " + str(error).strip().split("\n")[0]
        self.figures["failed"] = True

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))


def check(
    variants: list[Variant], reference, setting: Setting, gpu: bool
) -> list[dict]:
    """Runs every variant once and compares it; those that do not fit drop out."""
    rows = []
    for variant in variants:
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            got = to_numpy(variant.call())
        except (jax.errors.JaxRuntimeError, torch.OutOfMemoryError) as error:
            variant.fail(error)
            if gpu:
                torch.cuda.empty_cache()
            continue
        if variant.framework == "PyTorch":
            if "compile" in variant.name:
                variant.figures["compile_s"] = time.perf_counter() - start
            if gpu:
                variant.figures["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
        elif gpu:  # Of the process so far: it cannot be set back.
            stats = jax.devices()[0].memory_stats() or {}
            variant.figures["device_peak_mib"] = stats["peak_bytes_in_use"] / MIB
        row = {"framework": variant.framework, "variant": variant.name}
        rows.append(row | compare(got, reference, setting.dtype))
    return rows


def to_numpy(out: dict[str, Any]) -> dict[str, Any]:
    def array(x):
        if isinstance(x, torch.Tensor):
            x = x.float().cpu().numpy()
        return np.asarray(x, np.float64)

    nested = out.get("gradient", {})
    arrays = {name: array(x) for name, x in out.items() if name != "gradient"}
    if not nested:
        return arrays
    return arrays | {"gradient": {name: array(x) for name, x in nested.items()}}


def interleave(variants: list[Variant], repeats: int, keep: float) -> None:
    """Times call by call, JAX and PyTorch in turn, after one more warm-up each.

    After two rounds those slower than `keep` times their framework's best are timed
    no further, defaults excepted.
    """
    order = _alternate(variants)
    for variant in order:
        variant.call()
    for done in range(repeats):
        if done == 2:
            best = {f: best_of(variants, f) for f in {v.framework for v in variants}}
            order = [
                v
                for v in order
                if v.role == "default"
                or (b := best[v.framework]) is None
                or v.median <= keep * b.median
            ]
        for variant in order:
            variant.time()


def _alternate(variants: list[Variant]) -> list[Variant]:
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.framework, []).append(variant)
    longest = max(map(len, groups.values()))
    return [g[i] for i in range(longest) for g in groups.values() if i < len(g)]


def best_of(variants: list[Variant], framework: str) -> Variant | None:
    """The fastest by its median, of those that were timed and are not apart."""
    chosen = [
        v
        for v in variants
        if v.framework == framework and v.role != "apart" and v.seconds
    ]
    return min(chosen, key=lambda v: v.median, default=None)


def ratios(variants: list[Variant]) -> dict[str, Any]:
    theirs, ours = best_of(variants, "PyTorch"), best_of(variants, "draftx")
    if theirs is None or ours is None:
        return {}
    found: dict[str, Any] = {"best": round(theirs.median / ours.median, 3)}
    for v in variants:
        if v.framework == "draftx" and v.role == "default":
            found["default"] = round(theirs.median / v.median, 3)
        if v.framework == "PyTorch" and v.name == "eager":
            found["over eager"] = round(v.median / ours.median, 3)
    if jax.default_backend() == "cpu":
        # Says more than seconds where other programs share the cores.
        least = lambda framework: min(
            min(v.cpu_seconds)
            for v in variants
            if v.framework == framework and v.role != "apart"
        )
        found["CPU time"] = round(least("PyTorch") / least("draftx"), 3)
    return found | {"draftx": f"({ours.name})", "PyTorch": f"({theirs.name})"}
