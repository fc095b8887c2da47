"""The reward that training reaches by K, at equal steps and at equal compute.

python benchmarks/paper/k_ablation.py          # embedded model, 10 to 15 minutes
python benchmarks/paper/k_ablation.py --full   # Stable Diffusion 1.4

The claim: truncation to K = 1 does not only cost less, it also reaches a higher reward
than larger K and than full DRaFT.

Training by full DRaFT takes `--train-steps` steps; smaller K take as many more as its
UNet evaluations, forward and backward, allow. The learning rate of each K is the best
of `--learning-rates` on the first seed, for each of the two comparisons. The figure is
the held-out reward, of prompts that were not trained on; the reward is compressibility.
"""

import functools as ft

import matplotlib
import numpy as np
from _common import parser, verdict
from _runs import (
    compare,
    default_rates,
    evaluations_at,
    held_out_at,
    load_quick,
    Recipe,
    tuned,
    write,
)
from tqdm import tqdm

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


def main() -> None:
    options = parser(__doc__, "k_ablation")
    options.add_argument("--k", type=int, nargs="+", help="1 and T are always there")
    options.add_argument("--train-steps", type=int, help="of full DRaFT")
    options.add_argument("--learning-rates", type=float, nargs="+")
    args = options.parse_args()
    pipeline, total = load_quick(args)
    train_steps = args.train_steps or (900 if args.full else 12)
    rates = args.learning_rates or default_rates(args)
    seeds = args.seeds or 3
    ks = sorted({1, total, *(args.k or [k for k in (2, 5, 10) if k < total])})
    if not 1 <= ks[0] <= ks[-1] <= total:
        options.error(f"--k must lie in [1, {total}]; got {args.k}.")
    every = max(1, train_steps // 3)
    if train_steps % every:
        options.error(f"--train-steps must be divisible by 3; got {train_steps}.")
    found, shorter = {}, {}
    for k in tqdm(ks, desc="K"):
        recipe = Recipe(
            draftx.DRaFT(truncation_steps=k),
            equal_compute(train_steps, total, k),
            every=every,
        )
        find = ft.partial(
            tuned, pipeline, recipe, args, learning_rates=rates, seeds=seeds
        )
        found[k] = find()
        shorter[k] = find(at=train_steps)
    every_run = [r for of_k in (found, shorter) for runs in of_k.values() for r in runs]
    write(args.out, list({row["run"]: row for row in every_run}.values()))
    at_steps = lambda runs: [held_out_at(row, train_steps) for row in runs]
    at_end = lambda runs: [row["evaluations"][-1]["reward"] for row in runs]
    steps = np.array([at_steps(shorter[k]) for k in ks])
    compute = np.array([at_end(found[k]) for k in ks])
    spent = max(evaluations_at(r, r["num_train_steps"]) for r in found[total])
    before = found[1][0]["evaluations"][0]["reward"]

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for values, name in (
        (steps, f"after {train_steps} steps"),
        (compute, f"after {spent:,.0f} UNet evaluations"),
    ):
        left.errorbar(
            ks, values.mean(1), values.std(1), marker="o", capsize=3, label=name
        )
    left.axhline(before, color="gray", linestyle=":", label="before")
    left.set(xlabel="K", xscale="log", xticks=ks, xticklabels=ks)
    left.set_ylabel("held-out reward, mean and std of seeds")
    left.minorticks_off()
    for k in ks:
        x = [e["step"] for e in found[k][0]["evaluations"]]
        cost = [evaluations_at(found[k][0], step) if step else 0 for step in x]
        y = np.array([[e["reward"] for e in r["evaluations"]] for r in found[k]])
        rate = found[k][0]["learning_rate"]
        right.plot(cost, y.mean(0), marker=".", label=f"K={k}, rate {rate:g}")
        right.fill_between(cost, y.min(0), y.max(0), alpha=0.15)
    right.set(xlabel="UNet evaluations in training", ylabel="held-out reward")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(args.out / "k_ablation.png", dpi=150)

    words = {}
    for name, values in (("steps", steps), ("compute", compute)):
        said = [compare(values[0], other) for other in values[1:]]
        words[name] = "no" if "no" in said else "yes"
        if "within the spread" in said and "no" not in said:
            words[name] = "undecided, within the spread of seeds"
    word = "Holds" if set(words.values()) == {"yes"} else "Does not hold"
    if len(set(words.values())) > 1:
        word = "Holds in part"

    def told(values: np.ndarray, runs: dict[int, list[dict]]) -> str:
        return ", ".join(
            f"K={k} {v.mean():.1f} ± {v.std():.1f} (rate {runs[k][0]['learning_rate']})"
            for k, v in zip(ks, values, strict=True)
        )

    verdict(
        args.out,
        f"{word} here: K=1 ahead of all others at equal steps: {words['steps']}; at "
        f"equal compute: {words['compute']}. Held-out reward from {before:.1f}, after "
        f"{train_steps} steps: {told(steps, shorter)}; after {spent:,.0f} UNet "
        f"evaluations: {told(compute, found)} ({seeds} seeds, {total} sampling steps).",
    )


def equal_compute(train_steps: int, total: int, k: int) -> int:
    """The steps of DRaFT-K that cost what `train_steps` of full DRaFT do."""
    return train_steps * 2 * total // (total + k)


if __name__ == "__main__":
    main()
