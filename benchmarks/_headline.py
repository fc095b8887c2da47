"""Stages of `gpu_session.py` that time: the headline cases and other scripts."""

import json
import pathlib
import subprocess
import sys
from typing import Any, cast

import jax
from _context import Context
from _measure import compile_program, model_flops, rates, time_program, use_cache
from _models import (
    chain_program,
    gradient_program,
    Inputs,
    make_inputs,
    Program,
    sampling_program,
)
from _plan_record import beside

import draftx
from draftx.finetuning.training._tier import estimate
from draftx.layers import Remat


_HERE = pathlib.Path(__file__).parent
_RANK = 8


def headline(
    context: Context, *, case: str, bar: float, remat: str = "none"
) -> dict[str, Any]:
    """Sampling or a reward gradient at the size that `context` says.

    **Arguments:**

    - `case`: `"sampling"`, `"draft-lv"`, or `"draft-K"`.
    - `bar`: Seconds that it may take at full size.
    - `remat`: Of the gradient.
    """
    use_cache(str(context.cache))
    size: dict[str, Any] = dict(dtype=context.dtype, batch=context.batch, rank=_RANK)
    shapes = make_inputs(context.model, only_shapes=True, **size)
    row: dict[str, Any] = {"case": case, "remat": remat}
    # Before the weights are made: the device need not wait for much else.
    flops = model_flops(_program(shapes, context, case, "none"))
    row["model_tflop"] = flops / 1e12
    if not context.small:
        kind = jax.devices()[0].device_kind
        row |= beside(kind, **_plan_of(case, remat))
    context.save(row)
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    needed = _estimated(shapes, context, case, remat)
    too_large = lambda size: limit is not None and size > limit
    # Not even compiled: that takes minutes.
    if too_large(needed):
        return row | {"error": f"not begun: {_does_not_fit(needed, limit)}"}
    compiled, figures = compile_program(_program(shapes, context, case, remat))
    row |= figures
    context.save(row)
    if too_large(row["peak_mib"] * 2**20):
        return row | {"error": _does_not_fit(row["peak_mib"] * 2**20, limit)}
    inputs = make_inputs(context.model, **size)
    arrays = _program(inputs, context, case, remat).arrays
    repeats, warmups = (2, 1) if context.small else (10, 3)
    try:
        row |= time_program(compiled, arrays, repeats=repeats, warmups=warmups)
    except jax.errors.JaxRuntimeError as error:
        return row | {"error": str(error).strip().splitlines()[0]}
    row |= rates(row["seconds"], batch=context.batch, flops=flops)
    if not context.small:
        row |= {"bar_s": bar, "passed": row["seconds"] <= bar}
    return row


def _does_not_fit(needed: float, limit: Any) -> str:
    gib = [f"{size / 2**30:.0f} GiB" for size in (needed, limit)]
    return f"needs about {gib[0]} of the device's {gib[1]}"


def _plan_of(case: str, remat: str) -> dict[str, Any]:
    """The key of its plan."""
    if case == "sampling":
        return {"what": "sampling"}
    if case == "draft-lv":
        return {"what": "gradient", "method": "draft-lv", "remat": remat}
    k = int(case.removeprefix("draft-"))
    return {"what": "gradient", "method": "draft", "k": k, "remat": remat}


def _estimated(shapes: Inputs, context: Context, case: str, remat: str) -> int:
    """Bytes that a program needs, before it is compiled."""
    leaves = [x for x in jax.tree.leaves(shapes) if hasattr(x, "dtype")]
    weights = sum(x.size * x.dtype.itemsize for x in leaves if x.dtype.itemsize)
    if case == "sampling":
        return weights
    steps = 2 if case == "draft-lv" else min(_plan_of(case, remat)["k"], context.steps)
    kept = estimate(
        shapes.pipeline.unet.config,
        shapes.pipeline.vae.config,
        shapes.latents.shape,
        Remat(remat),
        steps=steps,
        guided=True,
        images_at_once=context.batch,
    )
    return weights + kept * shapes.pipeline.unet.dtype.itemsize


def _program(inputs: Inputs, context: Context, case: str, remat: str) -> Program:
    sampling = draftx.Sampling(context.steps)
    if case == "sampling":
        return sampling_program(inputs, sampling)
    method = draftx.DRaFTLV(num_samples=2)
    if case != "draft-lv":
        k = int(case.removeprefix("draft-"))
        # The rehearsal's chain is short.
        method = draftx.DRaFT(truncation_steps=min(k, context.steps))
    return gradient_program(inputs, method, sampling, draftx.Memory(remat))


def memory(context: Context, *, low: bool) -> dict[str, Any]:
    """`memory_vs_k.py`: the tiers that need least, image by image, or the fast ones."""
    k = ["1", "2"] if context.small else ["1", "50"] if low else ["1", "10", "50"]
    command = [sys.executable, str(_HERE / "memory_vs_k.py"), "--model", context.model]
    command += ["--dtype", context.dtype, "--batch", str(context.batch)]
    command += ["--num-inference-steps", str(context.steps), "--rank", str(_RANK)]
    command += ["--k", *k, "--no-warm", "--repeats", "2" if context.small else "5"]
    command += ["--remat", "step"] if context.small else []
    if low:
        command += ["--images-at-once", "1"]
        command += [] if context.small else ["--remat", "nested", "step"]
    elif not context.small:
        command += ["--remat", "ff", "step", "none"]
    out = context.work / f"memory-{'low' if low else 'fast'}"
    command += ["--cache", str(context.cache), "--out", str(out)]
    process = subprocess.Popen(command)
    path = out / f"memory_vs_k-{context.model}-draft-{context.dtype}.json"
    path.unlink(missing_ok=True)
    result: dict[str, Any] = {"rows": []}
    while True:
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            code = None
        if path.exists():
            try:
                result = json.loads(path.read_text())
            except json.JSONDecodeError:
                continue  # Being written.
            context.save(result)
        if code is not None:
            if code != 0:
                sys.exit(code)
            return result


def paper(context: Context) -> dict[str, Any]:
    """`paper/reward_by_step.py` with all methods, at a scale that a CPU does not allow.

    What is done is kept in its folder: a later visit goes on with it.
    """
    out = context.work / "paper"
    command = [sys.executable, str(_HERE / "paper" / "reward_by_step.py")]
    command += ["--out", str(out), "--seeds", "1"]
    if context.small:
        command += ["--train-steps", "3", "--batch", "2", "--num-inference-steps", "2"]
        command += ["--methods", "DRaFT-1", "--learning-rates", "4e-3"]
    else:
        command += ["--train-steps", "300", "--batch", "16"]
    done = subprocess.run(command, check=False, cwd=_HERE.parent)
    verdict = out / "verdict.txt"
    if done.returncode != 0:
        sys.exit(done.returncode)
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {"verdict": verdict.read_text().strip(), "rows": rows}


def against_pytorch(context: Context, *, case: str) -> dict[str, Any]:
    """`against_pytorch.py`, one of its cases."""
    import against_pytorch

    options = ["--cases", case, "--gate", "report", "--batch", str(context.batch)]
    if context.small:
        options += ["--num-inference-steps", "2", "--repeats", "1", "--threads", "1"]
    else:
        options += ["--config", "sd14", "--rank", str(_RANK)]
    parser = cast(Any, against_pytorch).parser()
    return against_pytorch.run(parser.parse_args(options))


def flags(context: Context, *, flag: str) -> dict[str, Any]:
    """A short chain and the gradient of its end, with the flag that this process was
    started with; nothing is taken from a cache: what a flag costs to compile counts."""
    inputs = make_inputs(
        context.model, dtype=context.dtype, batch=context.batch, rank=_RANK
    )
    steps = (2, 1) if context.small else (6, 2)
    result: dict[str, Any] = {"flag": flag}
    for name, k in (("forward", 0), ("gradient", steps[1])):
        program = chain_program(inputs, draftx.Sampling(steps[0]), k)
        compiled, figures = compile_program(program)
        times = time_program(
            compiled, program.arrays, repeats=2 if context.small else 10, warmups=2
        )
        result |= {f"{name}_s": times["seconds"], f"{name}_p10": times["seconds_p10"]}
        result[f"{name}_compile_s"] = figures["compile_s"]
        result[f"{name}_temp_mib"] = figures["temp_mib"]
        context.save(result)
    return result
