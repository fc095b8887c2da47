"""What every example does around its reward: flags, training, pictures, figures."""

import argparse
import functools as ft
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from _pictures import captioned_grid, curve
from _prompts import animal_of, HELD_OUT_PROMPTS, PAPER_PROMPTS, TRAIN_PROMPTS

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


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that all examples have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="'tiny', a folder or a hub id")
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
    parser.add_argument("--num-test-prompts", type=int, help="fewer than there are")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="output folder")
    return parser


def parse(parser: argparse.ArgumentParser, **tiny: Any) -> argparse.Namespace:
    """The flags, those not given filled in; and one host device for each core.

    **Arguments:**

    - `tiny`: What this example has in place of `TINY`.
    """
    args = parser.parse_args()
    args.is_tiny = args.model == "tiny"
    for name, value in (TINY | tiny if args.is_tiny else PAPER).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.out is None:
        name = pathlib.Path(sys.argv[0]).stem
        args.out = pathlib.Path("outputs") / f"{name}-{args.method}"
    draftx.split_cpu(args.batch_size)
    return args


def animal_prompts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Prompts to train on and prompts to draw: the paper's 45 animals."""
    if args.is_tiny:
        return TRAIN_PROMPTS, HELD_OUT_PROMPTS
    return PAPER_PROMPTS, PAPER_PROMPTS[::4]


def load_reward(
    name: str, options: Mapping[str, Any] | None = None
) -> draftx.AbstractReward:
    """A reward by its name; what is missing ends the program with how to get it."""
    return _or_exit(draftx.rewards.load, name, options=options)


def run(
    args: argparse.Namespace,
    reward: Callable[..., Any],
    train_prompts: Sequence[str],
    test_prompts: Sequence[str],
    *,
    measure: Callable[[Any, Sequence[str]], dict[str, float]] | None = None,
    below: Callable[[Any], Sequence[str]] | None = None,
) -> None:
    """Fine-tunes, draws the test prompts before and after, and writes it all down.

    **Arguments:**

    - `reward`: What is ascended.
    - `train_prompts`, `test_prompts`: The latter are drawn with the same noise.
    - `measure`: More figures of drawn images and their prompts.
    - `below`: What to write below drawn images; their reward if `None`.
    """
    start = time.perf_counter()
    test_prompts = test_prompts[: args.num_test_prompts]
    pipeline = _or_exit(draftx.load, args.model, dtype=jnp.dtype(args.dtype))
    adapter_key, train_key, eval_key = jr.split(jr.key(args.seed), 3)
    pipeline = draftx.add_lora(pipeline, rank=args.rank, key=adapter_key)
    sampling: dict[str, Any] = dict(
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
    )
    draw = ft.partial(draftx.sample, prompts=test_prompts, key=eval_key, **sampling)
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"drawing {len(test_prompts)} prompts before training ...", flush=True)
    before = draw(pipeline)
    print("compiling the training step ...", flush=True)
    with open(args.out / "metrics.jsonl", "w") as metrics:

        def log(row, pipeline):
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            if (row["step"] + 1) % 20 == 0:
                draftx.save_lora(pipeline, args.out / "lora.safetensors")

        pipeline = draftx.finetune(
            pipeline,
            reward,
            train_prompts,
            method=_method(args),
            key=train_key,
            num_train_steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            callback=log,
            **sampling,
        ).pipeline
    draftx.save_lora(pipeline, args.out / "lora.safetensors")
    after = draw(pipeline)

    drawn = {0.0: before, 1.0: after}  # The base and the tuned model themselves.
    scores = {k: _scores(reward, images, test_prompts) for k, images in drawn.items()}
    summary: dict[str, Any] = {}
    for name, scale in (("before", 0.0), ("after", 1.0)):
        summary[name] = {"reward": float(np.mean(scores[scale]))}
        if args.is_tiny:
            named = [animal_of(prompt) for prompt in test_prompts]
            right = np.mean(np.equal(seen_by_judge(drawn[scale])["animal"], named))
            summary[name]["animal_accuracy"] = float(right)
        if measure is not None:
            summary[name] |= measure(drawn[scale], test_prompts)

    if below is None:
        texts = {k: [f"{score:.3g}" for score in row] for k, row in scores.items()}
    else:
        texts = {k: below(images) for k, images in drawn.items()}
    captioned_grid(
        args.out / "before_after.png",
        {"before": before[:12], "after": after[:12]},
        test_prompts[:12],
        {"before": texts[0.0][:12], "after": texts[1.0][:12]},
    )
    curve(args.out / "reward.png", args.out / "metrics.jsonl", title=args.out.name)
    for scale in args.lora_scale:
        if scale not in drawn:
            drawn[scale] = draw(draftx.scale_lora(pipeline, scale))
    sweep = {f"scale {scale:g}": drawn[scale][:8] for scale in args.lora_scale}
    captioned_grid(args.out / "scales.png", sweep, test_prompts[:8])

    summary["seconds"] = round(time.perf_counter() - start, 1)
    summary["arguments"] = {k: str(v) for k, v in vars(args).items()}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\n{len(test_prompts)} pictures, before and after:")
    for name, was in summary["before"].items():
        print(f"  {name:>22}: {was:9.3f} -> {summary['after'][name]:9.3f}")
    print(f"{summary['seconds']:.0f} s in all. Pictures, curve, LoRA and log are in")
    print(args.out.resolve())


def seen_by_judge(images: Any) -> dict[str, list[str]]:
    """What a network that no reward is made of sees: animal, style, pattern, color.

    It knows the embedded model's pictures alone, and is kept beside its weights.
    """
    judge, heads = _judge()
    seen = np.argmax
    return {
        head: [heads[head][i] for i in seen(np.asarray(logits), axis=-1)]
        for head, logits in judge(jnp.asarray(images)).items()
    }


@ft.cache
def _judge() -> tuple[Callable[..., Any], dict[str, tuple[str, ...]]]:
    sys.path.insert(0, str(ROOT / "weights"))
    try:
        from judge import HEADS, load_judge
    finally:
        sys.path.pop(0)
    return eqx.filter_jit(load_judge()), HEADS


def _scores(reward: Any, images: Any, prompts: Sequence[str]) -> np.ndarray:
    """The reward of every image, one at a time, which is easy on memory."""
    prepared = None
    if isinstance(reward, draftx.AbstractReward):
        prepared = reward.prepare(prompts)

    def one(row):
        image, *features = jax.tree.map(lambda x: x[None], row)
        return reward(image, *features)[0]

    rows = (images,) if prepared is None else (images, prepared)
    return np.asarray(eqx.filter_jit(lambda rows: jax.lax.map(one, rows))(rows))


def _method(args: argparse.Namespace) -> draftx.AbstractGradientEstimator:
    match args.method:
        case "draft":
            return draftx.DRaFT()
        case "draft-k":
            return draftx.DRaFT(truncation_steps=args.truncation_steps)
        case _:
            return draftx.DRaFTLV(num_samples=args.num_samples)


def _or_exit(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return load(*args, **kwargs)
    except draftx.io.ModelFileError as error:
        sys.exit(str(error))  # Says how to get the files; a traceback would hide it.
