"""Fine-tunes a super-resolution model so that it draws less that is not there.

python examples/super_resolution.py                           # about five minutes
python examples/super_resolution.py --feature all --seeds 3 --num-test 504   # the table

A generator that makes 64 pixels of 16 has to guess, and guesses wrong: another animal,
another style or pattern. The reward is how near deep features of its picture are to
those of the truth, which each row of the table has its own of; a squared error and a
penalty for leaving the base model keep it from what features do not see. Training
pictures and held-out ones are scenes with labels, so that hallucination is counted:
pictures in which a network that no reward is made of (`weights/judge`) sees what the
scene does not have.

After the Hallucination Score (arXiv 2507.14367), whose features and generators are
larger: `--feature dinov2-small` takes 88 MB from the Hugging Face Hub.
"""

import argparse
import functools as ft
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from _common import load_model, load_reward, or_exit
from _pictures import captioned_grid
from _scenes import Pictures, pictures

import draftx
from draftx.rewards import MeanSquaredError, ReferenceSimilarity, WeightedSum


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny-sr", help="'tiny-sr' or a folder")
    parser.add_argument(
        "--feature",
        nargs="+",
        default=["classifier-tokens"],
        choices=(*FEATURES, "all"),
        help="what is compared with the truth's; 'all' is each that comes with draftx",
    )
    parser.add_argument("--method", default="draft", choices=("draft", "draft-lv"))
    parser.add_argument("--seeds", type=int, default=1, help="so many trainings of each")
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--num-inference-steps", type=int, default=12)
    parser.add_argument("--fidelity", type=float, default=2.0, help="of squared error")
    parser.add_argument("--penalty", type=float, default=0.1, help="for leaving the base")
    parser.add_argument("--num-train", type=int, default=512, help="pictures")
    parser.add_argument("--num-test", type=int, default=252, help="held-out pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default="outputs/super_resolution")
    args = parser.parse_args()
    if "all" in args.feature:
        args.feature = list(EMBEDDED)
    draftx.split_cpu(args.batch_size)
    draftx.enable_compilation_cache()
    return args


def main() -> None:
    args, start = parse(), time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_model(args)
    test = pictures(args.seed, args.num_test, held_out=True)
    print(f"drawing {args.num_test} held-out pictures before training ...", flush=True)
    drawn = {"base": draw(args, pipeline, test)}
    figures = {"bicubic": test.measured(test.enlarged)}
    figures["base"] = test.measured(drawn["base"])
    correlations = {name: correlation(name, drawn["base"], test) for name in EMBEDDED}
    for name in args.feature:
        for seed in range(args.seed, args.seed + args.seeds):
            label = name if args.seeds == 1 else f"{name}, seed {seed}"
            tuned = train(args, pipeline, name, seed)
            drawn[label] = draw(args, tuned, test)
            figures[label] = test.measured(drawn[label])
            draftx.save_lora(tuned, args.out / f"{name}-{seed}.safetensors")
            write(args, figures, correlations, start)
    picture(args.out / "enlarged.png", test, drawn)
    show(figures, correlations)
    print(f"{time.perf_counter() - start:.0f} s in all. Pictures and adapters are in")
    print(args.out.resolve())


def _sampling(args: argparse.Namespace) -> draftx.Sampling:
    # Nothing is asked for in words: there is nothing to guide.
    return draftx.Sampling(args.num_inference_steps, guidance_scale=1.0)


def draw(args: argparse.Namespace, pipeline: draftx.Pipeline, of: Pictures) -> Any:
    """Enlarges pictures, with the same noise each time."""
    return np.asarray(
        draftx.sample(
            pipeline,
            of.seen,
            _sampling(args),
            key=jr.key(args.seed),
            images_at_once=84,
        )
    )


def train(
    args: argparse.Namespace, pipeline: draftx.Pipeline, feature: str, seed: int
) -> draftx.Pipeline:
    """Fine-tunes an adapter on one feature."""
    adapter_key, train_key = jr.split(jr.key(seed))
    reward = WeightedSum(
        [ReferenceSimilarity(distance(feature), column="truth"), _FIDELITY],
        [1.0, args.fidelity],
        [feature, "fidelity"],
    )
    estimator = draftx.DRaFT(1) if args.method == "draft" else draftx.DRaFTLV()
    result = draftx.finetune(
        draftx.add_lora(pipeline, rank=args.rank, key=adapter_key),
        reward,
        pictures(seed, args.num_train).rows,
        _sampling(args),
        method=draftx.Penalized(estimator, args.penalty),
        key=train_key,
        num_train_steps=args.steps,
        batch_size=args.batch_size,
        optimizer=draftx.adamw(args.learning_rate),
        callbacks=(draftx.ProgressBar(name=feature),),
    )
    return result.pipeline


def correlation(feature: str, images: Any, of: Pictures) -> float:
    """How far the distances of a feature go with what is hallucinated: Pearson's."""
    far = np.concatenate(
        [
            _distances(distance(feature), images[i : i + 84], of.truths[i : i + 84])
            for i in range(0, len(images), 84)
        ]
    )
    return float(np.corrcoef(far, of.hallucinated(images))[0, 1])
