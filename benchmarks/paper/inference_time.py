"""Searches at inference time beside fine-tuning, by what an image takes.

python benchmarks/paper/inference_time.py          # embedded model, 5 to 10 minutes
python benchmarks/paper/inference_time.py --full   # Stable Diffusion 1.4

The claim (appendix A.3 of the paper): fine-tuning reaches higher rewards than prompt
engineering, best-of-N and DOODL, whose cost comes again with every image.

`--images` images of held-out prompts are wanted. Each search may evaluate the UNet,
forward and backward, as often as training and then drawing them does; what it had by
less is in the figure as well. Training is DRaFT-LV, as in reward_by_step.py, its
learning rate the best of `--learning-rates` on the first seed. The reward is
compressibility.
"""

from typing import Any

import jax.random as jr
import matplotlib
import numpy as np
from _common import parser, Rows, verdict
from _runs import (
    default_rates,
    evaluations_at,
    guidance,
    HELD_OUT,
    load_quick,
    make_reward,
    Recipe,
    sampling_of,
    tuned,
)

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


# Phrases that could make an image compressible, or not.
TINY_TEMPLATES = (
    *("a {}", "a {}, flat style", "a {}, noto style", "a {}, 3d style"),
    "a {}, flat style, on a plain white background",
    "a {}, flat style, on a plain gray background",
    "a {}, flat style, on a plain black background",
    "a {}, noto style, on a plain white background",
    "a {}, 3d style, on a plain white background",
    "a {}, 3d style, on a gradient gray background",
)
FULL_TEMPLATES = (
    *("a {}", "a photo of a {}", draftx.search.TEMPLATE),
    "a simple flat drawing of a {} on a plain white background",
    "a blurry photo of a {} in fog",
    "the black silhouette of a {} on white",
)


def search(name, pipeline, args, seed, size, prompts) -> dict[str, Any]:
    """Mean rewards of the best until then, and the evaluations an image took."""
    total, reward = args.num_inference_steps, make_reward("compressibility")
    sampling, key = sampling_of(args), jr.key(seed)
    match name:
        case "best of N":
            found = draftx.search.best_of_n(
                pipeline, reward, prompts, sampling, n=size, key=key
            )
            cost = [2 * total * (i + 1) for i in range(size)]
        case "DOODL":
            found = draftx.search.doodl(
                pipeline, reward, prompts, sampling, num_steps=size, key=key
            )
            cost = [2 * total * (2 * i + 1) for i in range(size + 1)]
        case "SVDD":
            noisy = draftx.Sampling(total, guidance(args), eta=1.0)
            found = draftx.search.svdd(
                pipeline, reward, prompts, noisy, num_candidates=size, key=key
            )
            cost = [found.budget.unet_forwards / len(prompts)]
        case _:
            templates = (FULL_TEMPLATES if args.full else TINY_TEMPLATES)[:size]
            words = [prompt.removeprefix("a ") for prompt in prompts]
            found = draftx.search.prompt_engineering(
                pipeline, reward, words, sampling, templates=templates, key=key
            )
            cost = [2 * total * (i + 1) for i in range(len(templates))]
    history = found.history
    if name == "SVDD":
        means = [float(history[-1].mean())]
    elif name == "prompt engineering":  # One phrase for all images.
        means = np.maximum.accumulate(history.mean(1)).tolist()
    else:
        means = np.maximum.accumulate(history, axis=0).mean(1).tolist()
    return {"rewards": means, "evaluations": cost, "seconds": found.budget.seconds}


def main() -> None:
    options = parser(__doc__, "inference_time")
    options.add_argument("--train-steps", type=int)
    options.add_argument("--learning-rates", type=float, nargs="+")
    options.add_argument("--images", type=int, default=8)
    args = options.parse_args()
    pipeline, total = load_quick(args)
    steps = args.train_steps or (900 if args.full else 12)
    rates = args.learning_rates or default_rates(args)
    seeds = args.seeds or 3
    runs = tuned(
        pipeline,
        Recipe(draftx.DRaFTLV(num_samples=2), steps),
        args,
        learning_rates=rates,
        seeds=seeds,
    )
    spent = evaluations_at(runs[0], runs[0]["num_train_steps"])
    each = spent / args.images + 2 * total  # What a search may take for an image.
    chains = each / (2 * total)
    sizes = {
        "best of N": [int(chains)],
        "prompt engineering": [int(chains)],
        "DOODL": [int((chains - 2) / 2)],  # Its last images are drawn twice.
        "SVDD": [max(1, int((each / 2 / s - 1) / (total - 1))) for s in (4, 2, 1)],
    }
    if min(size for row in sizes.values() for size in row) < 1:
        options.error(f"--images is too large for {spent:,.0f} UNet evaluations.")
    settings = {"model": args.model, "steps": total, "images": args.images}
    rows = Rows(args.out, settings)
    prompts = [HELD_OUT[i % len(HELD_OUT)] for i in range(args.images)]
    found = {}
    for name, of_name in sizes.items():
        for seed in range(seeds):
            parts = []
            for size in of_name:
                key = {"search": name, "size": size, "seed": seed}
                row = rows.find(**key)
                if row is None:
                    figures = search(name, pipeline, args, seed, size, prompts)
                    row = rows.add(key, figures)
                parts.append(row)
            found.setdefault(name, []).append(parts)
    trained = np.array([run["evaluations"][-1]["reward"] for run in runs])
    ends = {n: np.array([p[-1]["rewards"][-1] for p in x]) for n, x in found.items()}
    before = float(np.mean([p[0]["rewards"][0] for p in found["best of N"]]))

    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, of_seeds in found.items():
        x = sum((part["evaluations"] for part in of_seeds[0]), [])
        y = np.array([sum((p["rewards"] for p in parts), []) for parts in of_seeds])
        axis.plot(x, y.mean(0), marker=".", label=name)
        axis.fill_between(x, y.min(0), y.max(0), alpha=0.15)
    wanted = args.images * 10.0 ** np.arange(3)
    x = spent / wanted + 2 * total
    axis.errorbar(
        x, [trained.mean()] * 3, trained.std(), marker="s", capsize=3, color="black"
    )
    for cost, images in zip(x, wanted, strict=True):
        text = f"{images:,.0f}"
        axis.annotate(text, (cost, trained.mean()), (0, 6), textcoords="offset points")
    axis.plot([], [], "ks-", label="fine-tuning, for so many images")
    axis.axhline(before, color="gray", linestyle=":", label="before")
    axis.set(xlabel="UNet evaluations an image", xscale="log")
    axis.set(ylabel="reward of held-out prompts, range of seeds")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(args.out / "inference_time.png", dpi=150)

    best = max(ends, key=lambda name: ends[name].mean())
    ahead = trained.mean() - ends[best].mean()
    holds = ahead > np.hypot(trained.std(), ends[best].std())
    told = ", ".join(f"{n} {y.mean():.1f} ± {y.std():.1f}" for n, y in ends.items())
    verdict(
        args.out,
        f"{'Holds' if holds else 'Does not hold'} here: at {each:,.0f} UNet "
        f"evaluations an image ({args.images} images), from {before:.1f}: "
        f"fine-tuning {trained.mean():.1f} ± {trained.std():.1f}; {told} "
        f"({seeds} seeds, {total} sampling steps).",
    )


if __name__ == "__main__":
    main()
