"""The same gradient in draftx and in PyTorch: is it the same, and how fast is each?

python benchmarks/against_pytorch.py                         # a small UNet, on a CPU
python benchmarks/against_pytorch.py --compile default       # minutes of compiling more
python benchmarks/against_pytorch.py --config sd14           # real shapes, for a GPU

Both sides get the same random weights, adapter, noise, prompts, schedule, guidance and
reward, the same cores, and take turns call by call. Before anything is timed every
variant's rewards, latents and adapter gradients are compared with plain PyTorch's in
float32; a difference ends the run with an error.

PyTorch is diffusers and peft: `eager`; with `torch.utils.checkpoint` ("checkpoint");
`tuned` by hand (`Options` in `_pytorch_chain.py`); channels last; `torch.compile`; the
attention kernels of a GPU; on a CPU also a thread for each core with its part of the
batch. It is given the text embeddings; draftx computes them in every call. "AlignProp"
is its published loop, shown and never counted as PyTorch's best.

A line `*` is what a user gets without asking; a line `(` is not compared. The last
lines divide the best PyTorch time by draftx's best and by draftx's default, and say
what a gradient takes beyond sampling.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import sys
from typing import Any


os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import diffusers
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import peft
import torch
from _agreement import LIMITS, print_gate
from _cases import case_of, CONFIGS, Inputs, Setting
from _draftx_variants import draftx_pipeline, draftx_variants, NOISE_SEED
from _pytorch_chain import Options, Runner
from _pytorch_networks import Networks, random_weights
from _pytorch_variants import torch_runners, torch_variants
from _table import beyond_sampling, print_rows, rows_of
from _timing import check, interleave, ratios, to_numpy

import draftx
from draftx.layers import Remat


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything: compare, time, print; what `--out` is given is returned."""
    draftx.split_cpu(args.batch)  # What a user calls; but `--threads` counts here.
    with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay.
        jax.config.update("jax_num_cpu_devices", args.threads)
    gpu = jax.default_backend() == "gpu"
    if gpu != torch.cuda.is_available():
        sys.exit("JAX and PyTorch must see the same device; one of them has a GPU.")
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # The reference is float32.
    build, names = CONFIGS[args.config]
    setting: Setting = build(args)
    cases = [case_of(name, setting) for name in args.cases or names]
    notes = _settle_compilation(args, gpu)

    weights = random_weights(setting, args.seed)
    pipeline = draftx_pipeline(setting, weights)
    ids, inputs = _inputs(pipeline, setting, args.seed)
    runners = torch_runners(setting, weights, inputs, args.compile, args.threads, gpu)
    exact = Runner(
        setting,
        inputs,
        Options(checkpoint=gpu),
        Networks(
            setting,
            weights,
            torch.float32,
            "cuda" if gpu else "cpu",
            torch.contiguous_format,
        ),
    )
    record: dict[str, Any] = {
        "device": jax.devices()[0].device_kind if gpu else processor(),
        "threads": args.threads,
        "versions": _versions(),
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "notes": notes,
        "load_average_before": os.getloadavg()[0],
        "agreement": [],
        "rows": [],
        "ratios": {},
    }
    print(f"{record['device']}, {args.threads} threads; {record['versions']}")
    print("\n".join(notes))
    for case in cases:
        print(
            f"\n{case.name}: {setting.steps} steps, batch {setting.batch}", flush=True
        )
        reference = to_numpy(exact(case))
        variants = draftx_variants(pipeline, setting, case, inputs.latents, ids, args)
        variants += torch_variants(runners, case, gpu)
        working = [v for v in variants if not v.figures.get("failed")]
        agreement = check(working, reference, setting, gpu)
        print_gate(agreement)
        record["agreement"] += [{"case": case.name} | row for row in agreement]
        if not all(row["passed"] for row in agreement):
            print(f"Not the same (limits {LIMITS[setting.dtype]}): see the lines '!'.")
            if args.gate == "exit":
                sys.exit(1)
        working = [v for v in working if not v.figures.get("failed")]
        interleave(working, args.repeats, args.keep)
        rows = rows_of(variants, setting, case, gpu)
        print_rows(rows, gpu)
        record["rows"] += rows
        record["ratios"][case.name] = ratios(working)
    print("\nPyTorch's best time divided by draftx's:")
    for name, ratio in record["ratios"].items():
        print(f"  {name:10} " + "  ".join(f"{k} {v}" for k, v in ratio.items()))
    extra = beyond_sampling(record["rows"], setting.steps)
    for name, count in extra.items():
        print(f"  {name:10} takes {count:.2f} forward passes longer than sampling")
    record["forward_passes_beyond_sampling"] = extra
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n")
        print(args.out)
    return record


def _settle_compilation(args: argparse.Namespace, gpu: bool) -> list[str]:
    """Makes `args.compile` a mode or "off"; what there is to note of that."""
    if args.compile == "auto":
        args.compile = "max-autotune-no-cudagraphs" if gpu else "off"
    if args.compile == "off":
        return ["torch.compile was not timed (--compile off)."]
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not gpu and compiler is None:
        args.compile = "off"
        return ["torch.compile was not timed: there is no C++ compiler."]
    return []


def _inputs(pipeline, setting: Setting, seed: int) -> tuple[jax.Array, Inputs]:
    """Token ids, and all that does not depend on who computes."""
    rng = np.random.default_rng(seed)
    tokens = setting.text["max_position_embeddings"]
    ids = jnp.asarray(rng.integers(0, 1000, (setting.batch, tokens)), jnp.int32)
    latents = rng.standard_normal(setting.latent_shape).astype(np.float32)
    embed = eqx.filter_jit(lambda pipeline, ids: pipeline.embed(ids))
    embeddings = lambda ids: np.asarray(embed(pipeline, ids), np.float32)
    draws = [jr.normal(key, latents.shape) for key in jr.split(jr.key(NOISE_SEED), 2)]
    return ids, Inputs(
        latents, embeddings(jnp.zeros_like(ids)), embeddings(ids), np.asarray(draws)
    )


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "draftx": draftx.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "peft": peft.__version__,
    }


def processor() -> str:
    """The name of the CPU, where the system tells."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return (names or [platform.processor()])[0].strip()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument(
        "--cases", nargs="+", help="of sample, draft-K, draft (all steps), draft-lv"
    )
    parser.add_argument(
        "--reward",
        choices=("latents", "pixels"),
        help="whether to decode; by default only with sd14",
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--dtype", choices=LIMITS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores")
    parser.add_argument(
        "--remat",
        nargs="+",
        default=["none"],
        choices=("all", *list(Remat)[1:]),
        help="tiers of draftx beside its default",
    )
    parser.add_argument(
        "--compile",
        default="auto",
        help="mode of torch.compile, or 'off', which 'auto' is on a CPU",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--keep", type=float, default=1.2, help="stop timing what is so much slower"
    )
    parser.add_argument("--gate", default="exit", choices=("exit", "report"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="JSON file")
    return parser


if __name__ == "__main__":
    run(parser().parse_args())
