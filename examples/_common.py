"""What the examples share beside their training: flags, drawing, files."""

import argparse
import dataclasses
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
from jaxtyping import PRNGKeyArray

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
    """Makes the flags that all examples have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="'tiny', a folder or a hub id")
    parser.add_argument(
        "--method",
        default="draft-lv",
        choices=("draft", "draft-k", "draft-lv", "alignprop"),
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
        "--height", type=int, help="pixels; the model's own if left out"
    )
    parser.add_argument("--width", type=int, help="pixels; the model's own if left out")
    parser.add_argument(
        "--lora-scale",
        type=float,
        nargs="+",
        default=[0.0, 0.5, 1.0, 1.5],
        help="scales of the adapter to draw side by side",
    )
    parser.add_argument("--num-test-prompts", type=int, help="fewer than there are")
    parser.add_argument(
        "--remat", help="what the backward pass computes again: `draftx.Memory`"
    )
    parser.add_argument(
        "--images-at-once",
        type=int,
        help="decoded, rewarded and drawn; all of a batch if left out",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="output folder")
    return parser


def parse(parser: argparse.ArgumentParser, **tiny: Any) -> argparse.Namespace:
    """Reads the flags, fills in those not given, and makes one device of each core.

    Compiled programs are kept for the next time, in `~/.cache/draftx/compiled`.

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
    try:
        remat = args.remat or draftx.Memory().remat
        args.memory = draftx.Memory(remat, args.images_at_once)
        args.memory.check(args.batch_size)
    except ValueError as error:
        parser.error(str(error))
    draftx.split_cpu(args.batch_size)
    draftx.enable_compilation_cache()
    return args


def drawn_at_once(args: argparse.Namespace) -> int | None:
    """Says how many images are drawn at once where there are many; `None` for all."""
    return args.images_at_once or (None if args.is_tiny else args.batch_size)


def method_of(args: argparse.Namespace) -> draftx.AbstractGradientEstimator:
    """Makes the gradient estimator that the flags name."""
    match args.method:
        case "draft":
            return draftx.DRaFT()
        case "draft-k":
            return draftx.DRaFT(truncation_steps=args.truncation_steps)
        case "alignprop":
            return draftx.AlignProp()
        case _:
            return draftx.DRaFTLV(num_samples=args.num_samples)


def run_config(args: argparse.Namespace, **changes: Any) -> draftx.runs.RunConfig:
    """Makes what the flags say the configuration of a run.

    **Arguments:**

    - `changes`: Its other fields.
    """
    base = draftx.runs.PRESETS["tiny" if args.is_tiny else "small"]
    change = dataclasses.replace
    name = "draft" if args.method == "draft-k" else args.method
    options = {"draft-k": ["truncation_steps"], "draft-lv": ["num_samples"]}
    options = {key: getattr(args, key) for key in options.get(args.method, ())}
    sizes = ("num_inference_steps", "guidance_scale", "height", "width")
    batch_size = drawn_at_once(args) or base.evaluation.batch_size
    return change(
        base,
        model=args.model,
        dtype=args.dtype,
        seed=args.seed,
        output_dir=str(args.out),
        max_train_steps=args.steps,
        train_batch_size=args.batch_size,
        rank=args.rank,
        lora_scales=tuple(args.lora_scale),
        sampling=change(base.sampling, **{key: getattr(args, key) for key in sizes}),
        method=change(base.method, name=name, **options),
        optimizer=change(base.optimizer, learning_rate=args.learning_rate),
        memory=change(
            base.memory,
            remat=str(args.memory.remat),
            images_at_once=args.memory.images_at_once,
        ),
        evaluation=change(base.evaluation, batch_size=batch_size),
        **changes,
    )


def animal_prompts(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Lists prompts to train on and prompts to draw: the paper's 45 animals."""
    if args.is_tiny:
        return TRAIN_PROMPTS, HELD_OUT_PROMPTS
    return PAPER_PROMPTS, PAPER_PROMPTS[::4]


def load_model(args: argparse.Namespace) -> draftx.Pipeline:
    """Loads the model; what is missing ends the program with how to get it."""
    return or_exit(draftx.load, args.model, dtype=jnp.dtype(args.dtype))


def load_reward(
    name: str, options: Mapping[str, Any] | None = None
) -> draftx.AbstractReward:
    """Loads a reward by its name; ends the program as `load_model` does."""
    return or_exit(draftx.rewards.load, name, options=options)


class Report:
    """Draws the test prompts before and after a training, and writes it all down."""

    def __init__(
        self,
        args: argparse.Namespace,
        reward: draftx.Reward,
        prompts: Sequence[str],
        *,
        measure: Callable[[Any, Sequence[str]], dict[str, float]] | None = None,
        below: Callable[[Any], Sequence[str]] | None = None,
    ):
        """**Arguments:**

        - `args`: The flags; the files go into `args.out`.
        - `reward`: What is ascended.
        - `prompts`: What is drawn, with the same noise each time.
        - `measure`: Computes more figures of drawn images and their prompts.
        - `below`: Says what to write below drawn images; their reward if `None`.
        """
        self.args = args
        self.reward = reward
        self.prompts = prompts[: args.num_test_prompts]
        self.measure = measure
        self.below = below
        self.start = time.perf_counter()

    def before(
        self, pipeline: draftx.Pipeline, sampling: draftx.Sampling, key: PRNGKeyArray
    ) -> None:
        """Draws the test prompts with the untrained model.

        **Arguments:**

        - `sampling`, `key`: How it is drawn, then and afterwards.
        """
        self.args.out.mkdir(parents=True, exist_ok=True)
        (self.args.out / "metrics.jsonl").write_text("")
        self.draw = ft.partial(
            draftx.sample,
            prompts=self.prompts,
            sampling=sampling,
            key=key,
            images_at_once=drawn_at_once(self.args),
            tell=tell,
        )
        print(f"drawing {len(self.prompts)} prompts before training ...", flush=True)
        self.drawn = {0.0: self.draw(pipeline)}
        print("compiling the training step ...", flush=True)

    def log(self, row: dict[str, Any], pipeline: draftx.Pipeline) -> None:
        """Writes one step down: a callback of `draftx.finetune`."""
        with open(self.args.out / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps(row) + "\n")
        if (row["step"] + 1) % 20 == 0:
            draftx.save_lora(pipeline, self.args.out / "lora.safetensors")

    def after(self, pipeline: draftx.Pipeline) -> None:
        """Draws the test prompts with the trained model, and writes all files."""
        draftx.save_lora(pipeline, self.args.out / "lora.safetensors")
        self.drawn[1.0] = self.draw(pipeline)
        scores = {scale: self._scores(images) for scale, images in self.drawn.items()}
        summary: dict[str, Any] = {
            "before": self._figures(self.drawn[0.0], scores[0.0]),
            "after": self._figures(self.drawn[1.0], scores[1.0]),
        }
        self._write_pictures(pipeline, scores)
        summary["seconds"] = round(time.perf_counter() - self.start, 1)
        summary["arguments"] = {k: str(v) for k, v in vars(self.args).items()}
        text = json.dumps(summary, indent=2) + "\n"
        (self.args.out / "summary.json").write_text(text)
        print(f"\n{len(self.prompts)} images, before and after:")
        for name, was in summary["before"].items():
            print(f"  {name:>22}: {was:9.3f} -> {summary['after'][name]:9.3f}")
        print(f"{summary['seconds']:.0f} s in all. Images, curve, LoRA and log are in")
        print(self.args.out.resolve())

    def _scores(self, images: Any) -> np.ndarray:
        """The reward of every image, one at a time, which is easy on memory."""
        reward = draftx.rewards.as_reward(self.reward)
        features = reward.prepare(self.prompts)

        def one(row):
            return reward(*jax.tree.map(lambda x: x[None], row))[0]

        score = eqx.filter_jit(lambda rows: jax.lax.map(one, rows))
        return np.asarray(score((images, features)))

    def _figures(self, images: Any, scores: np.ndarray) -> dict[str, float]:
        figures = {"reward": float(np.mean(scores))}
        if self.args.is_tiny:
            named = [animal_of(prompt) for prompt in self.prompts]
            right = np.mean(np.equal(seen_by_judge(images)["animal"], named))
            figures["animal_accuracy"] = float(right)
        if self.measure is not None:
            figures |= self.measure(images, self.prompts)
        return figures

    def _write_pictures(
        self, pipeline: draftx.Pipeline, scores: Mapping[float, np.ndarray]
    ) -> None:
        out, drawn = self.args.out, self.drawn
        if self.below is None:
            texts = {k: [f"{score:.3g}" for score in row] for k, row in scores.items()}
        else:
            texts = {k: self.below(images) for k, images in drawn.items()}
        captioned_grid(
            out / "before_after.png",
            {"before": drawn[0.0][:12], "after": drawn[1.0][:12]},
            self.prompts[:12],
            {"before": texts[0.0][:12], "after": texts[1.0][:12]},
        )
        curve(out / "reward.png", out / "metrics.jsonl", title=out.name)
        for scale in self.args.lora_scale:
            if scale not in drawn:
                drawn[scale] = self.draw(draftx.scale_lora(pipeline, scale))
        sweep = {f"scale {scale:g}": drawn[scale][:8] for scale in self.args.lora_scale}
        captioned_grid(out / "scales.png", sweep, self.prompts[:8])


def write_before_after(
    args: argparse.Namespace,
    pipeline: draftx.Pipeline,
    below: Callable[[Any], Sequence[str]],
) -> None:
    """Draws test prompts without and with an adapter, from the same noise.

    **Arguments:**

    - `below`: Says what to write below drawn images.
    """
    prompts = animal_prompts(args)[1][: args.num_test_prompts or 8]
    sampling = draftx.Sampling(
        args.num_inference_steps,
        args.guidance_scale,
        height=args.height,
        width=args.width,
    )
    draw = ft.partial(
        draftx.sample,
        prompts=prompts,
        sampling=sampling,
        key=jr.key(args.seed),
        images_at_once=drawn_at_once(args),
        tell=tell,
    )
    # Not taken off: one program draws both.
    before = draftx.scale_lora(pipeline, 0)
    drawn = {"before": draw(before), "after": draw(pipeline)}
    texts = {name: below(images) for name, images in drawn.items()}
    captioned_grid(args.out / "before_after.png", drawn, prompts, texts)


def tell(done: int, total: int) -> None:
    """Says how many images are drawn, where they are not drawn at once."""
    if 0 < done < total:
        print(f"  {done} of {total} images", flush=True)


def seen_by_judge(images: Any) -> dict[str, list[str]]:
    """Tells what a network that no reward is made of sees: animal, style, pattern,
    color.

    It knows the embedded model's images alone, and is kept beside its weights.
    """
    return _said(*_judges()[0], images)


def counted_by_judge(images: Any) -> dict[str, list[str]]:
    """Tells what `seen_by_judge` tells, and how many animals there are, as a word.

    By another network, which has seen several at a time.
    """
    return _said(*_judges()[1], images)


def _said(
    judge: Callable[..., Any], heads: Mapping[str, tuple[str, ...]], images: Any
) -> dict[str, list[str]]:
    seen = np.argmax
    return {
        head: [heads[head][i] for i in seen(np.asarray(logits), axis=-1)]
        for head, logits in judge(jnp.asarray(images)).items()
    }


@ft.cache
def _judges() -> list[tuple[Callable[..., Any], Mapping[str, tuple[str, ...]]]]:
    sys.path.insert(0, str(ROOT / "weights"))
    try:
        import judge
    finally:
        sys.path.pop(0)
    return [
        (eqx.filter_jit(judge.load_judge()), judge.HEADS),
        (eqx.filter_jit(judge.load_counting_judge()), judge.COUNTING_HEADS),
    ]


def or_exit(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function; files that are missing, or what cannot be, end the program."""
    try:
        return load(*args, **kwargs)
    except (draftx.io.ModelFileError, ValueError) as error:
        sys.exit(str(error))  # Says what to do; a traceback would hide it.
