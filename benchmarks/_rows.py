"""The rows of `memory_vs_k.py`: one for each K and remat tier, one by one.

Each row that is run is measured in a process of its own: neither a device nor a process
sets its count of its peak back. `args` is always what `memory_vs_k.py` parsed.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
from _measure import compile_program, MIB, model_flops, rates, time_program
from _models import gradient_program, Inputs, make_inputs, Program

import draftx
from draftx.layers import Remat


# Key of a row, title, format.
_COLUMNS = (
    ("k", "K", "{}"),
    ("remat", "remat", "{}"),
    ("peak_mib", "peak MiB", "{:.1f}"),
    ("beyond_weights_mib", "beyond weights", "{:.1f}"),
    ("temp_mib", "temp MiB", "{:.1f}"),
    ("device_peak_mib", "device peak", "{:.1f}"),
    ("process_peak_mib", "process peak", "{:.1f}"),
    ("seconds", "s/gradient", "{:.3f}"),
    ("seconds_p10", "p10", "{:.3f}"),
    ("seconds_p90", "p90", "{:.3f}"),
    ("images_per_s", "images/s", "{:.2f}"),
    ("model_tflop", "model TFLOP", "{:.3f}"),
    ("model_tflop_per_s", "TFLOP/s", "{:.3f}"),
    ("mfu_989", "MFU 989", "{:.1%}"),
    ("mfu_790", "MFU 790", "{:.1%}"),
    ("compile_s", "compile s", "{:.1f}"),
    ("warm_compile_s", "warm s", "{:.1f}"),
)
_OF_A_GPU = {"device_peak_mib", "mfu_989", "mfu_790"}
_OF_A_RUN = {"seconds", "seconds_p10", "seconds_p90", "images_per_s"}
_OF_A_RUN |= {"model_tflop_per_s", "process_peak_mib"} | _OF_A_GPU


def inputs_of(args, *, only_shapes: bool) -> Inputs:
    return make_inputs(
        args.model,
        dtype=args.dtype,
        batch=args.batch,
        rank=args.rank,
        only_shapes=only_shapes,
    )


def measure(inputs: Inputs, args, k: int, remat: Remat) -> dict[str, Any]:
    """One row: the compilation and, unless `--aot-only`, the time of a gradient."""
    row: dict[str, Any] = {"k": k, "remat": remat}
    program = _program(inputs, args, k, remat)
    try:
        compiled, figures = compile_program(program)
        row |= figures
        if not args.aot_only:
            row |= time_program(compiled, program.arrays, repeats=args.repeats)
    except jax.errors.JaxRuntimeError as error:  # Out of memory, most of the time.
        row["error"] = str(error).strip().splitlines()[0]
    return row


def measure_apart(args, k: int, remat: Remat, *, aot_only: bool) -> dict[str, Any]:
    """`measure` in a new process."""
    options = ["--remat", remat, "--cache", str(args.cache)]
    options += ["--aot-only"] if aot_only else []
    options += ["--k", str(k)] if args.method == "draft" else []
    for name in ("model", "method", "dtype", "batch", "rank", "repeats"):
        options += [f"--{name}", str(getattr(args, name))]
    options += ["--num-inference-steps", str(args.num_inference_steps)]
    if args.images_at_once is not None:
        options += ["--images-at-once", str(args.images_at_once)]
    script = pathlib.Path(__file__).with_name("memory_vs_k.py")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "row.json")
        command = [sys.executable, str(script), *options, "--row", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if path.exists():
            return json.loads(path.read_text())
    lines = ["", *done.stderr.strip().splitlines()]
    error = f"exit status {done.returncode}: {lines[-1]}"
    return {"k": k, "remat": remat, "error": error}


def measure_all(args, save: Callable[[list], None]) -> list[dict[str, Any]]:
    """All rows, printed and given to `save` as they come."""
    shapes = inputs_of(args, only_shapes=True)
    rows: list[dict[str, Any]] = []
    flops: dict[int, int] = {}
    print("  ".join(title.rjust(width) for _, title, _, width in _shown(args)))
    for k in args.k:
        flops[k] = model_flops(_program(shapes, args, k, Remat.NONE))
        for remat in args.remat:
            if args.aot_only:
                row = measure(shapes, args, k, remat)
            else:
                row = measure_apart(args, k, remat, aot_only=False)
            row["model_tflop"] = flops[k] / 1e12
            if "seconds" in row:
                row |= rates(row["seconds"], batch=args.batch, flops=flops[k])
            if args.warm and not rows and "error" not in row:
                again = measure_apart(args, k, remat, aot_only=True)
                row["warm_compile_s"] = again.get("compile_s")
            rows.append(row)
            save(rows)
            print(_line(row, args), flush=True)
    return rows


def growth(rows: list[dict[str, Any]], inputs: Inputs) -> Iterator[str]:
    """Per tier, what more steps cost, and how much of it is the latents themselves, of
    which every method must keep one a step."""
    latent = inputs.latents.size * inputs.latents.dtype.itemsize / MIB
    for remat in dict.fromkeys(row["remat"] for row in rows):
        of_tier = [r for r in rows if r["remat"] == remat and "temp_mib" in r]
        if len(of_tier) < 2:
            continue
        first = min(of_tier, key=lambda row: row["k"])
        last = max(of_tier, key=lambda row: row["k"])
        yield (
            f"remat {remat}: from K={first['k']} to K={last['k']} temporaries grow by "
            f"{last['temp_mib'] - first['temp_mib']:.1f} MiB; stored latents are "
            f"{(last['k'] - first['k']) * latent:.1f} MiB"
        )


def _program(inputs: Inputs, args, k: int, remat: Remat) -> Program:
    lv = args.method == "draft-lv"
    return gradient_program(
        inputs,
        draftx.DRaFTLV() if lv else draftx.DRaFT(truncation_steps=k),
        draftx.Sampling(args.num_inference_steps),
        draftx.Memory(remat, args.images_at_once),
    )


def _shown(args) -> Iterator[tuple[str, str, str, int]]:
    hidden = _OF_A_RUN if args.aot_only else set()
    is_cpu = jax.default_backend() == "cpu"
    hidden = hidden | (_OF_A_GPU if is_cpu else {"process_peak_mib"})
    for key, title, form in _COLUMNS:
        if key not in hidden:
            yield key, title, form, max(6, len(title))


def _line(row: dict[str, Any], args) -> str:
    cells = []
    for key, _, form, width in _shown(args):
        value = row.get(key)
        cells.append(("" if value is None else form.format(value)).rjust(width))
    return "  ".join(cells) + (f"  {row['error']}" if "error" in row else "")
