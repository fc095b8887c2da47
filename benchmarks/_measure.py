"""One program at a time: how long it compiles, what memory it needs, how fast it is."""

import pathlib
import time
from typing import Any

import jax
import numpy as np
from _flops import count_flops, count_jaxpr_flops, plain_attention
from _models import Program

from draftx._compilation import compiler_options


MIB = 2**20
_STATUS = pathlib.Path("/proc/self/status")
_cache_hits = [0]
# Dense bfloat16 FLOP/s by the name of a device: the data sheet's, and what matrix
# products sustain at the power limit. Utilization is shown as a fraction of each.
PEAKS = {"H200": {"mfu_989": 989.5e12, "mfu_790": 790e12}}


def peaks() -> dict[str, float]:
    """Of JAX's default device; nothing if they are not known."""
    kind = jax.devices()[0].device_kind
    return next((peaks for name, peaks in PEAKS.items() if name in kind), {})


def use_cache(folder: str) -> None:
    """Keeps every compiled program of this process in a folder, or takes it from it."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _count(event: str, **_: Any) -> None:
    _cache_hits[0] += event == "/jax/compilation_cache/cache_hits"


jax.monitoring.register_event_listener(_count)


def model_flops(program: Program) -> int:
    """Of a program with `remat` "none": of the mathematics, nothing computed twice.

    What draftx computes once where a plain sampler computes it at every step, or for
    an image and its unguided twin, counts once.
    """
    with plain_attention():
        return count_flops(program.fn, program.arrays)


def compile_program(program: Program) -> tuple[Any, dict[str, Any]]:
    """**Returns:**

    The compiled program, and its figures:

    - `trace_s`, `compile_s`: Seconds of tracing, and of lowering and compilation.
    - `cache_hits`: 1 if the compilation was read from a cache. If 0, a cache may still
        have known some of a GPU's fastest kernels.
    - `arguments_mib`, `outputs_mib`, `temp_mib`: Of XLA's analysis: the weights and
        other inputs, the results, and all else at its peak.
    - `beyond_weights_mib`: Results and `temp_mib`.
    - `peak_mib`: All together, or the compiler's own figure if that is larger.
    - `executed_tflop`: With everything that is computed twice.
    """
    start = time.perf_counter()
    traced = jax.jit(program.fn).trace(program.arrays)
    trace_s = time.perf_counter() - start
    hits, start = _cache_hits[0], time.perf_counter()
    # As the library compiles its own programs.
    options = compiler_options(jax.default_backend())
    compiled = traced.lower().compile(compiler_options=options)
    figures: dict[str, Any] = {
        "trace_s": trace_s,
        "compile_s": time.perf_counter() - start,
    }
    figures["cache_hits"] = _cache_hits[0] - hits
    figures["executed_tflop"] = count_jaxpr_flops(traced.jaxpr) / 1e12
    return compiled, figures | memory_figures(compiled.memory_analysis())


def memory_figures(memory: Any) -> dict[str, float]:
    """Those of `compile_program`, from what `memory_analysis()` gave."""
    beyond = memory.temp_size_in_bytes + memory.output_size_in_bytes
    beyond -= memory.alias_size_in_bytes
    # Some backends leave temporaries out of their own figure, some versions have none.
    reported = getattr(memory, "peak_memory_in_bytes", 0)
    return {
        "arguments_mib": memory.argument_size_in_bytes / MIB,
        "outputs_mib": memory.output_size_in_bytes / MIB,
        "temp_mib": memory.temp_size_in_bytes / MIB,
        "beyond_weights_mib": beyond / MIB,
        "peak_mib": max(reported, memory.argument_size_in_bytes + beyond) / MIB,
    }


def time_program(
    compiled: Any, arrays: Any, *, repeats: int, warmups: int = 1
) -> dict[str, Any]:
    """**Returns:**

    - `seconds`, `seconds_p10`, `seconds_p90`: The median call, and the spread.
    - `device_peak_mib`: On a GPU, the most that was in use at any time; of the whole
        process, so only its first program's figure is its own.
    - `device_beyond_inputs_mib`: That, less what was in use before the first call.
    - `process_peak_mib`: Under Linux on a CPU, the most memory that the process has had
        since it began, with Python, JAX and the compilation.
    """
    device = jax.devices()[0]
    before = device.memory_stats() or {}
    for _ in range(warmups):
        jax.block_until_ready(compiled(arrays))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(arrays))
        times.append(time.perf_counter() - start)
    low, middle, high = np.percentile(times, [10, 50, 90]).tolist()
    row: dict[str, Any] = dict(
        seconds=middle, seconds_p10=low, seconds_p90=high, repeats=repeats
    )
    if device.platform == "cpu" and _STATUS.is_file():
        peak = _STATUS.read_text().partition("VmHWM:")[2].split()[0]
        row["process_peak_mib"] = int(peak) / 1024
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if peak is not None:
        row["device_peak_mib"] = peak / MIB
        row["device_beyond_inputs_mib"] = (peak - before["bytes_in_use"]) / MIB
    return row


def rates(seconds: float, *, batch: int, flops: int) -> dict[str, float]:
    """Images and model FLOPs a second, and utilization where the peak is known."""
    row = {
        "images_per_s": batch / seconds,
        "model_tflop": flops / 1e12,
        "model_tflop_per_s": flops / seconds / 1e12,
    }
    return row | {name: flops / seconds / peak for name, peak in peaks().items()}
