"""Fine-tunes a text-to-image model so that its pictures compress better (or worse).

python examples/compressibility.py                        # about five minutes
python examples/compressibility.py --reward incompressibility
python examples/compressibility.py --model CompVis/stable-diffusion-v1-4  # the paper's

Writes into the output folder: `before_after.png` (held-out prompts, the same noise),
`reward.png`, `scales.png`, `lora.safetensors`, `metrics.jsonl` and `summary.json`.
"""

import argparse
import json
import os
import pathlib
import sys
import time


# XLA's CPU backend gains little from a second core inside one device. One host device
# per core, each with one thread, uses all of them; both must be said before JAX starts.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
)

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _pictures import captioned_grid, curve, jpeg_bytes
from _prompts import ANIMALS, HELD_OUT_PROMPTS, PAPER_PROMPTS, TRAIN_PROMPTS

import draftx


ROOT = pathlib.Path(__file__).resolve().parent.parent
# What the embedded model takes a few minutes for, and the paper's hyper-parameters.
TINY = dict(
    steps=44,
    batch_size=4,
    learning_rate=4e-4,
    rank=8,
    num_inference_steps=20,
    guidance_scale=4.0,
)
PAPER = dict(
    steps=2000,
    batch_size=4,
    learning_rate=4e-4,
    rank=8,
    num_inference_steps=50,
    guidance_scale=7.5,
)
REWARDS = {
    "compressibility": draftx.rewards.JPEGCompressibility,
    "incompressibility": draftx.rewards.JPEGIncompressibility,
    "rotation": draftx.rewards.RotationAntiCorrelation,
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="'tiny', a folder or a hub id")
    parser.add_argument("--reward", default="compressibility", choices=REWARDS)
    parser.add_argument(
        "--method", default="draft-lv", choices=("draft", "draft-k", "draft-lv")
    )
    parser.add_argument("--truncation-steps", type=int, default=1, help="K of draft-k")
    parser.add_argument("--num-samples", type=int, default=2, help="n of draft-lv")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument(
        "--lora-scale",
        type=float,
        nargs="+",
        default=[0.0, 0.5, 1.0, 1.5],
        help="scales of the adapter to draw side by side",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="output folder")
    args = parser.parse_args()
    for name, value in (TINY if args.model == "tiny" else PAPER).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.out is None:
        args.out = pathlib.Path("outputs") / f"{args.reward}-{args.method}"
    return args


def make_method(args) -> draftx.AbstractGradientEstimator:
    match args.method:
        case "draft":
            return draftx.DRaFT()
        case "draft-k":
            return draftx.DRaFT(truncation_steps=args.truncation_steps)
        case _:
            return draftx.DRaFTLV(num_samples=args.num_samples)


def load_judge():
    """The classifier of the embedded model's pictures, kept beside its weights."""
    sys.path.insert(0, str(ROOT / "weights"))
    from classifier import load_classifier

    classify = eqx.filter_jit(load_classifier())
    return lambda images: np.argmax(np.asarray(classify(images)["animal"]), axis=-1)


def measure(images, animals, judge) -> dict[str, float]:
    """Real file sizes, and how many animals the classifier still recognizes."""
    flat = np.full_like(np.asarray(images[:1]), 0.5)
    figures = {}
    for quality in (80, 95):
        header = jpeg_bytes(flat, quality).mean()  # A flat picture is all header.
        figures[f"bytes_q{quality}"] = float(jpeg_bytes(images, quality).mean())
        figures[f"bytes_above_flat_q{quality}"] = figures[f"bytes_q{quality}"] - header
    if judge is not None:
        figures["animal_accuracy"] = float(np.mean(judge(images) == animals))
    return figures


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    is_tiny = args.model == "tiny"
    cores = os.cpu_count() or 1
    split = max(n for n in range(1, cores + 1) if args.batch_size % n == 0)
    jax.config.update("jax_num_cpu_devices", split)  # Does not touch other devices.
    try:
        pipeline = draftx.load(args.model, dtype=jnp.dtype(args.dtype))
    except draftx.io.ModelFileError as error:
        sys.exit(str(error))  # Says how to get the files; a traceback would hide it.
    adapter_key, train_key, eval_key = jr.split(jr.key(args.seed), 3)
    pipeline = draftx.add_lora(pipeline, rank=args.rank, key=adapter_key)
    reward = REWARDS[args.reward]()
    train_prompts = TRAIN_PROMPTS if is_tiny else PAPER_PROMPTS
    test_prompts = HELD_OUT_PROMPTS if is_tiny else PAPER_PROMPTS[::4]
    judge = load_judge() if is_tiny else None
    animals = None
    if is_tiny:
        animals = np.array(
            [ANIMALS.index(p.split(",")[0].split()[-1]) for p in test_prompts]
        )

    def draw(pipeline):
        return draftx.sample(
            pipeline,
            test_prompts,
            key=eval_key,
            num_inference_steps=args.num_inference_steps,
            guidance_scale=args.guidance_scale,
        )

    args.out.mkdir(parents=True, exist_ok=True)
    print(
        f"drawing {len(test_prompts)} held-out prompts before training ...", flush=True
    )
    before = draw(pipeline)
    metrics = open(args.out / "metrics.jsonl", "w")

    def log(row, pipeline):
        metrics.write(json.dumps(row) + "\n")
        metrics.flush()
        if (row["step"] + 1) % 20 == 0:
            draftx.save_lora(pipeline, args.out / "lora.safetensors")

    print("compiling the training step ...", flush=True)
    result = draftx.finetune(
        pipeline,
        reward,
        train_prompts,
        method=make_method(args),
        key=train_key,
        num_train_steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        callback=log,
    )
    metrics.close()
    draftx.save_lora(result.pipeline, args.out / "lora.safetensors")

    after = draw(result.pipeline)
    shown = slice(0, 12)
    captioned_grid(
        args.out / "before_after.png",
        {"before": before[shown], "after": after[shown]},
        test_prompts[shown],
    )
    curve(args.out / "reward.png", args.out / "metrics.jsonl", title=args.reward)
    drawn = {0.0: before, 1.0: after}  # The base and the tuned model themselves.
    sweep = {
        f"scale {scale:g}": (
            drawn[scale]
            if scale in drawn
            else draw(draftx.scale_lora(result.pipeline, scale))
        )[:8]
        for scale in args.lora_scale
    }
    captioned_grid(args.out / "scales.png", sweep, test_prompts[:8])

    summary = {
        "before": measure(before, animals, judge),
        "after": measure(after, animals, judge),
        "seconds": round(time.perf_counter() - start, 1),
    }
    summary["arguments"] = {k: str(v) for k, v in vars(args).items()}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\nreal JPEG files of {len(test_prompts)} held-out pictures:")
    for name, was in summary["before"].items():
        now = summary["after"][name]
        change = f"{100 * (now / was - 1):+.0f} %" if was else ""
        print(f"  {name:>22}: {was:9.3f} -> {now:9.3f}  {change}")
    print(f"{summary['seconds']:.0f} s in all. Pictures, curve, LoRA and log are in")
    print(args.out.resolve())


if __name__ == "__main__":
    main()
