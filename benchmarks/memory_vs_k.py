"""What a gradient of the reward costs in memory and time, for each K.

python benchmarks/memory_vs_k.py                                 # embedded model
python benchmarks/memory_vs_k.py --model sd14-shape --aot-only   # real shapes, not run

Memory is XLA's own analysis of the compiled program: arguments, results and temporary
buffers together at their peak. Figures go to a table, a JSON file and a plot.
"""

import argparse
import json
import os
import pathlib
import time


os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
)

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np

import draftx
from draftx.diffusion import DDIM, SchedulerConfig
from draftx.finetuning import value_and_grad
from draftx.lora import lora_filter
from draftx.models import (
    AutoencoderConfig,
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    UNet2DConditionModel,
    UNetConfig,
)


MIB = 2**20


def sd14_pipeline(dtype, key) -> draftx.Pipeline:
    """Stable Diffusion 1.4 with random weights; the tokenizer is not used."""
    unet_key, vae_key, text_key = jr.split(key, 3)
    return draftx.Pipeline(
        unet=UNet2DConditionModel(UNetConfig(), dtype=dtype, key=unet_key),
        vae=AutoencoderKL(AutoencoderConfig(), dtype=dtype, key=vae_key),
        text_encoder=CLIPTextModel(CLIPTextConfig(), dtype=dtype, key=text_key),
        sampler=DDIM(SchedulerConfig()),
        tokenizer=draftx.load("tiny").tokenizer,
    )


def arguments(args):
    """The inputs of a gradient: arrays, or only shapes with `--aot-only`."""
    dtype = jnp.dtype(args.dtype)

    def build():
        if args.model == "sd14-shape":
            pipeline = sd14_pipeline(dtype, jr.key(0))
        else:
            pipeline = draftx.load(args.model, dtype=dtype)
        pipeline = draftx.add_lora(pipeline, rank=args.rank, key=jr.key(1))
        tokens = pipeline.text_encoder.config.max_position_embeddings
        ids = jnp.zeros((args.batch, tokens), jnp.int32)
        latents = jr.normal(jr.key(2), (args.batch, *pipeline.latent_shape))
        return pipeline, ids, ids[:1], latents, jnp.asarray(7.5), jr.key(3)

    return eqx.filter_eval_shape(build) if args.aot_only else build()


def measure(k: int, inputs, args) -> dict[str, float]:
    """Compile time, memory and, unless `--aot-only`, seconds of one gradient."""
    pipeline, ids, negative_ids, latents, guidance, key = inputs
    total = args.num_inference_steps
    method = draftx.DRaFT(truncation_steps=k) if args.method == "draft" else None
    method = method or draftx.DRaFTLV()
    reward = draftx.rewards.JPEGCompressibility()
    is_array = lambda x: isinstance(x, jax.Array | jax.ShapeDtypeStruct)
    spec = lora_filter(pipeline)
    trainable = eqx.filter(pipeline, spec)
    frozen = eqx.filter(pipeline, spec, inverse=True)
    operands = (trainable, frozen, ids, negative_ids, latents, guidance, key)
    arrays, static = eqx.partition(operands, is_array)

    @jax.jit
    def gradient(arrays):
        trainable, frozen, ids, negative_ids, latents, guidance, key = eqx.combine(
            arrays, static
        )
        (_, rewards), gradient = value_and_grad(
            trainable,
            frozen,
            method,
            reward,
            ids,
            negative_ids,
            latents,
            guidance,
            key,
            total,
        )
        return rewards, eqx.filter(gradient, eqx.is_array)

    start = time.perf_counter()
    compiled = gradient.lower(arrays).compile()
    row = {"k": k, "compile_s": time.perf_counter() - start}
    memory = compiled.memory_analysis()
    row["temp_mib"] = memory.temp_size_in_bytes / MIB
    row["arguments_mib"] = memory.argument_size_in_bytes / MIB
    row["peak_mib"] = (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
    ) / MIB
    if not args.aot_only:
        jax.block_until_ready(compiled(arrays))
        times = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(arrays))
            times.append(time.perf_counter() - start)
        row["seconds"] = float(np.median(times))
        row["images_per_s"] = args.batch / row["seconds"]
    return row


def plot(path: pathlib.Path, rows, title: str) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ks = [row["k"] for row in rows]
    timed = "seconds" in rows[0]
    figure, axes = plt.subplots(1, 1 + timed, figsize=(4.5 * (1 + timed), 3.4))
    axes = np.atleast_1d(axes)
    axes[0].plot(ks, [row["peak_mib"] for row in rows], "o-")
    axes[0].set(xlabel="K", ylabel="peak memory, MiB", ylim=(0, None))
    if timed:
        axes[1].plot(ks, [row["seconds"] for row in rows], "o-", color="C1")
        axes[1].set(xlabel="K", ylabel="seconds a gradient", ylim=(0, None))
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="or 'sd14-shape'")
    parser.add_argument("--aot-only", action="store_true", help="compile, do not run")
    parser.add_argument("--k", type=int, nargs="+", default=None)
    parser.add_argument("--num-inference-steps", type=int, default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--method", default="draft", choices=("draft", "draft-lv"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("outputs"))
    args = parser.parse_args()
    real = args.model != "tiny"
    args.num_inference_steps = args.num_inference_steps or (50 if real else 20)
    args.batch = args.batch or (1 if real else 4)
    args.k = args.k or ([1, 10, 50] if real else [1, 5, 20])
    if args.method == "draft-lv":
        args.k = [1]

    inputs = arguments(args)
    device = jax.devices()[0].device_kind
    rows = []
    print(f"{'K':>3} {'peak MiB':>9} {'temp MiB':>9} {'compile s':>9}", end="")
    print("" if args.aot_only else f" {'s/grad':>8} {'images/s':>8}")
    for k in args.k:
        row = measure(k, inputs, args)
        rows.append(row)
        line = f"{k:3d} {row['peak_mib']:9.1f} {row['temp_mib']:9.1f}"
        line += f" {row['compile_s']:9.1f}"
        if not args.aot_only:
            line += f" {row['seconds']:8.3f} {row['images_per_s']:8.2f}"
        print(line, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"memory_vs_k-{args.model.replace('/', '-')}"
    record = {
        "device": device,
        "jax": jax.__version__,
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "rows": rows,
    }
    stem.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    title = f"{args.model}, {args.num_inference_steps} steps, batch {args.batch}, "
    plot(stem.with_suffix(".png"), rows, f"{title}{args.dtype}, {device}")
    print(f"{stem}.json and .png")


if __name__ == "__main__":
    main()
