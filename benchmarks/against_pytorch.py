"""The same gradient in draftx and in PyTorch: is it the same, and how fast is each?

python benchmarks/against_pytorch.py                         # a small UNet, on a CPU
python benchmarks/against_pytorch.py --compile default       # minutes of compiling more
python benchmarks/against_pytorch.py --config sd14           # real shapes, for a GPU

Both sides get the same random weights, adapter, noise, prompts, schedule, guidance and
reward, the same cores, and take turns call by call. Before anything is timed every
variant's rewards, latents and adapter gradients are compared with plain PyTorch's in
float32; a difference ends the run with an error.

PyTorch is diffusers and peft: `eager`; with `torch.utils.checkpoint` ("checkpoint");
`tuned` by hand (see `Options` in `_pytorch.py`); channels last; `torch.compile`; the
attention kernels of a GPU; on a CPU also a thread for each core with its part of the
batch. It is given the text embeddings; draftx computes them in every call. "AlignProp"
is its published loop, shown and never counted as PyTorch's best.

A line `*` is what a user gets without asking; a line `(` is not compared. The last
lines divide the best PyTorch time by draftx's best and by draftx's default, and say
what a gradient takes beyond sampling.
"""

import argparse
import contextlib
import inspect
import json
import math
import os
import pathlib
import platform
import shutil
import sys
import time
from typing import Any, get_args


os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import diffusers
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import peft
import torch
from _pytorch import (
    Networks,
    Options,
    random_weights,
    Runner,
    torch_runners,
    torch_variants,
)
from _timing import (
    Case,
    check,
    Inputs,
    interleave,
    LIMITS,
    MIB,
    print_gate,
    print_rows,
    ratios,
    rows_of,
    Setting,
    to_numpy,
    Variant,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import draftx
from draftx.diffusion import DDIM, run_chain, SchedulerConfig
from draftx.finetuning import value_and_grad
from draftx.layers import Remat
from draftx.lora import lora_filter
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    map_linears,
    replace_parameters,
    UNet2DConditionModel,
    UNetConfig,
)


NOISE_SEED = 3  # Of DRaFT-LV's draws.
SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
)


def reward(images):
    """Smooth, and the same expression for arrays of JAX and of PyTorch."""
    return -((images - 0.3) ** 2 * (1.0 + 0.1 * images)).mean((1, 2, 3))


def small(args) -> Setting:
    vae = dict(
        sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[32, 64],
        layers_per_block=1,
        norm_num_groups=8,
    )
    return Setting(
        unet=dict(
            sample_size=16,
            block_out_channels=[32, 64, 128, 128],
            layers_per_block=2,
            cross_attention_dim=64,
            attention_head_dim=4,  # The number of heads.
            norm_num_groups=8,
        ),
        vae=vae if args.reward == "pixels" else None,
        text=dict(
            vocab_size=1024,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
        ),
        steps=args.num_inference_steps or 6,
        guidance=7.5,
        batch=args.batch,
        rank=args.rank,
        dtype=args.dtype or "float32",
        reward=reward,
        scheduler=SCHEDULER,
    )


def sd14(args) -> Setting:
    vae = dict(
        sample_size=512,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
    )
    return Setting(
        unet=dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        vae=None if args.reward == "latents" else vae,
        text=dict(max_position_embeddings=77, hidden_size=768),
        steps=args.num_inference_steps or 50,
        guidance=7.5,
        batch=args.batch,
        rank=args.rank,
        dtype=args.dtype or "bfloat16",
        reward=reward,
        scheduler=SCHEDULER,
    )


CONFIGS = {
    "small": (small, ["sample", "draft-1", "draft-3", "draft"]),
    "sd14": (sd14, ["sample", "draft-1", "draft-10", "draft", "draft-lv"]),
}


def case_of(name: str, setting: Setting) -> Case:
    if name in ("sample", "draft", "draft-lv"):
        k = {"sample": 0, "draft": setting.steps, "draft-lv": 1}[name]
        return Case(name, k, 2 if name == "draft-lv" else 0)
    return Case(name, int(name.removeprefix("draft-")))


class NoDecoder(eqx.Module):
    """Stands in for the autoencoder where the reward is of the latents."""

    def decode(self, latents, *, remat="none"):
        del remat
        return latents


def draftx_pipeline(setting: Setting, weights) -> Any:
    """A pipeline with PyTorch's weights and adapter, and a random text encoder."""
    dtype = jnp.dtype(setting.dtype)

    def load(cls, config, state):
        skeleton = eqx.filter_eval_shape(cls, config, key=jr.key(0))
        return replace_parameters(
            skeleton, lambda p: jnp.asarray(p.from_file(state[p.key].numpy()), dtype)
        )

    unet: Any = load(
        UNet2DConditionModel, UNetConfig.from_dict(setting.unet), weights["unet"]
    )
    vae: Any = NoDecoder()
    if setting.vae is not None:
        config = AutoencoderConfig.from_dict(setting.vae)
        vae = load(AutoencoderKL, config, weights["vae"])
    pipeline = draftx.Pipeline(
        unet=unet,
        vae=vae,
        text_encoder=CLIPTextModel(
            CLIPTextConfig.from_dict(setting.text), dtype=dtype, key=jr.key(1)
        ),
        sampler=DDIM(SchedulerConfig.from_dict(setting.scheduler)),
        tokenizer=draftx.load("tiny").tokenizer,  # Not used.
    )
    pipeline = draftx.add_lora(pipeline, rank=setting.rank, key=jr.key(2))

    def adapt(name, layer):
        if layer.lora_down is None:
            return layer
        new = [
            jnp.asarray(weights["lora"][f"{name}.lora.{side}.weight"].numpy())
            for side in ("down", "up")
        ]
        return eqx.tree_at(lambda m: (m.lora_down, m.lora_up), layer, new)

    return map_linears(adapt, pipeline)


def remat_tiers(wanted: list[str]) -> list[str]:
    """What draftx can be asked to compute again, its default first."""
    default = inspect.signature(value_and_grad).parameters["remat"].default
    tiers = [tier for tier in get_args(Remat) if "all" in wanted or tier in wanted]
    return [default, *(tier for tier in tiers if tier != default)]


def draftx_variant(
    pipeline,
    setting,
    case: Case,
    latents,
    ids,
    *,
    remat,
    num_devices,
    threads,
    name,
    role,
) -> Variant:
    """A compiled program of draftx and its arguments, the batch split over devices."""
    mesh = Mesh(np.asarray(jax.devices()[:num_devices]), ("data",))
    everywhere, by_batch = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",))
    )
    key = jr.key(NOISE_SEED)
    frozen_args: tuple[Any, ...] = (
        pipeline,
        jnp.zeros_like(ids[:1]),
        jnp.asarray(7.5),
        key,
    )
    arrays, static = eqx.partition(frozen_args, eqx.is_array)
    operands = (
        jax.device_put(arrays, everywhere),
        jax.device_put(ids, by_batch),
        jax.device_put(jnp.asarray(latents), by_batch),
    )
    method = draftx.DRaFT(truncation_steps=max(case.k, 1))
    if case.draws:
        method = draftx.DRaFTLV(num_samples=case.draws)

    def program(arrays, ids, latents):
        pipeline, negative_ids, guidance, key = eqx.combine(arrays, static)
        if case.k == 0:
            steps = pipeline.sampler.steps(setting.steps)
            denoiser = pipeline.denoiser(steps, ids, negative_ids, guidance)
            clean = run_chain(
                pipeline.sampler, denoiser, steps, latents, truncation_steps=0
            )
            return {"latents": clean, "images": pipeline.decode(clean)}
        trainable, frozen = eqx.partition(pipeline, lora_filter(pipeline))
        differentiate: Any = value_and_grad
        (_, rewards), gradient = differentiate(
            trainable,
            frozen,
            method,
            setting.reward,
            ids,
            negative_ids,
            latents,
            guidance,
            key,
            num_inference_steps=setting.steps,
            remat=remat,
        )
        return {"rewards": rewards, "gradient": draftx.lora_state_dict(gradient)}

    options = {}
    if jax.default_backend() == "cpu":
        # One device has a thread for each core; of several, each has one.
        options["xla_cpu_multi_thread_eigen"] = num_devices < threads
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*operands).compile(compiler_options=options)
    figures: dict[str, Any] = {"compile_s": time.perf_counter() - start}
    memory: Any = compiled.memory_analysis()
    peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    figures["peak_mib"] = num_devices * peak / MIB
    call = lambda: jax.block_until_ready(compiled(*operands))
    return Variant("draftx", name, call, role, figures)


def draftx_variants(pipeline, setting, case, latents, ids, args) -> list[Variant]:
    gpu, available = jax.default_backend() == "gpu", len(jax.devices())
    most = max(n for n in range(1, available + 1) if setting.batch % n == 0)
    most = 1 if gpu else most
    tiers = remat_tiers(args.remat) if case.k else [None]
    wanted = [(tier, most) for tier in tiers]
    if most > 1 and not case.k:
        wanted.append((None, 1))  # To see what splitting the batch gives.
    variants = []
    for tier, n in wanted:
        name = f"remat={tier}" if tier else "draftx"
        if not gpu:
            name += f", {n} devices" if n > 1 else f", 1 device, {args.threads} cores"
        role = "default" if (tier, n) == wanted[0] else "variant"
        try:
            variant = draftx_variant(
                pipeline,
                setting,
                case,
                latents,
                ids,
                remat=tier,
                num_devices=n,
                threads=args.threads,
                name=name,
                role=role,
            )
        except jax.errors.JaxRuntimeError as error:  # It does not fit.
            note = "failed: " + str(error).strip().split("\n")[0]
            variant = Variant("draftx", name, lambda: None, role)
            variant.figures = {"note": note, "failed": True}
        variants.append(variant)
    return variants


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything: compare, time, print; what `--out` is given is returned."""
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
    if args.compile == "auto":
        args.compile = "max-autotune-no-cudagraphs" if gpu else "off"
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    notes = []
    if args.compile == "off":
        notes.append("torch.compile was not timed (--compile off).")
    elif not gpu and compiler is None:
        args.compile = "off"
        notes.append("torch.compile was not timed: there is no C++ compiler.")

    weights = random_weights(setting, args.seed)
    pipeline = draftx_pipeline(setting, weights)
    rng = np.random.default_rng(args.seed)
    tokens = setting.text["max_position_embeddings"]
    ids = jnp.asarray(rng.integers(0, 1000, (setting.batch, tokens)), jnp.int32)
    latents = rng.standard_normal(setting.latent_shape).astype(np.float32)
    embed = eqx.filter_jit(lambda pipeline, ids: pipeline.embed(ids))
    embeddings = lambda ids: np.asarray(embed(pipeline, ids), np.float32)
    draws = [jr.normal(key, latents.shape) for key in jr.split(jr.key(NOISE_SEED), 2)]
    inputs = Inputs(
        latents, embeddings(jnp.zeros_like(ids)), embeddings(ids), np.asarray(draws)
    )
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
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "draftx": draftx.__version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "peft": peft.__version__,
        },
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
        variants = draftx_variants(pipeline, setting, case, latents, ids, args)
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


def beyond_sampling(rows: list[dict], steps: int) -> dict[str, float]:
    """What draftx's best gradient takes beyond its best sampling, in the time of one
    sampling step."""
    best: dict[str, float] = {}
    for row in rows:
        if row["framework"] == "draftx" and "seconds" in row:
            case = row["case"]
            best[case] = min(best.get(case, math.inf), row["seconds"])
    if "sample" not in best:
        return {}
    sampling = best.pop("sample")
    return {case: (s - sampling) / (sampling / steps) for case, s in best.items()}


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
        choices=("all", *get_args(Remat)),
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
