"""Reward by training step and by reward queries, for every way of training.

python benchmarks/paper/reward_by_step.py          # embedded model, 14 minutes
python benchmarks/paper/reward_by_step.py --full   # Stable Diffusion 1.4

The claims: DRaFT-LV learns fastest, ahead of DRaFT-1, and about twice as fast as ReFL;
both are ahead of full DRaFT; DPG beats full DRaFT and loses to DRaFT-1; DDPO needs
orders of magnitude more reward queries.

All have the same prompts, batch, adapter and optimizer; the learning rate of each is
the best of `--learning-rates` on the first seed. The figure is the held-out reward, of
prompts that were not trained on; the reward is compressibility.
"""

import matplotlib
import numpy as np
from _common import parser, verdict
from _runs import (
    compare,
    default_rates,
    held_out_at,
    load_quick,
    Recipe,
    tuned,
    write,
)
from k_ablation import equal_compute
from tqdm import tqdm

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


def methods(total: int) -> dict[str, tuple]:
    """Each with how many of the steps it differentiates, if that is its budget."""
    k = max(2, total // 2)
    return {
        "DRaFT-LV": (draftx.DRaFTLV(num_samples=2), None),
        "DRaFT-1": (draftx.DRaFT(truncation_steps=1), 1),
        f"DRaFT-{k}": (draftx.DRaFT(truncation_steps=k), k),
        "DRaFT": (draftx.DRaFT(truncation_steps=total), total),
        # 20 of the paper's 50 steps.
        "ReFL": (draftx.ReFL(max_steps=max(1, 2 * total // 5)), None),
        "AlignProp": (draftx.AlignProp(), None),
        "DPG": (draftx.DPG(), None),
        "DDPO": (draftx.DDPO(), None),
    }


def main() -> None:
    options = parser(__doc__, "reward_by_step")
    options.add_argument("--train-steps", type=int)
    options.add_argument("--learning-rates", type=float, nargs="+")
    options.add_argument("--methods", nargs="+", help="some of them, by name")
    args = options.parse_args()
    pipeline, total = load_quick(args)
    train_steps = args.train_steps or (900 if args.full else 12)
    rates = args.learning_rates or default_rates(args)
    seeds = args.seeds or 3
    every = max(1, train_steps // 3)
    if train_steps % every:
        options.error(f"--train-steps must be divisible by 3; got {train_steps}.")
    known = methods(total)
    names = args.methods or list(known)
    if not set(names) <= set(known):
        options.error(f"--methods must be among {list(known)}; got {names}.")
    found = {}
    for name in tqdm(names, desc="method"):
        method, k = known[name]
        # The same runs as those of k_ablation.py.
        steps = equal_compute(train_steps, total, k) if k else train_steps
        recipe = Recipe(method, steps, every=every)
        found[name] = tuned(
            pipeline,
            recipe,
            args,
            learning_rates=rates,
            seeds=seeds,
            at=train_steps,
        )
        write(args.out, [row for runs in found.values() for row in runs])

    figure, axes = plt.subplots(
        1, 2, figsize=(11, 4), sharey=True, layout="constrained"
    )
    steps = range(0, train_steps + 1, every)
    curves = {}
    for name, runs in found.items():
        y = np.array([[held_out_at(r, step) for r in runs] for step in steps])
        # None before training, which a logarithmic axis has no place for.
        queries = [runs[0]["reward_queries"][step - 1] for step in steps[1:]]
        curves[name] = y
        rate = f"{name}, rate {runs[0]['learning_rate']:g}"
        for axis, x in zip(axes, (list(steps), queries), strict=True):
            shown = y[-len(x) :]
            axis.plot(x, shown.mean(1), marker=".", label=rate)
            axis.fill_between(x, shown.min(1), shown.max(1), alpha=0.12)
    axes[0].set(xlabel="training step", ylabel="held-out reward, range of seeds")
    axes[1].set(xlabel="reward queries (DPG: and the critic's)", xscale="log")
    for axis in axes:
        axis.axhline(curves[names[0]][0].mean(), color="gray", linestyle=":")
        axis.grid(alpha=0.3)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside right center", fontsize=8)
    figure.savefig(args.out / "reward_by_step.png", dpi=150)

    end = {name: y[-1] for name, y in curves.items()}
    before = curves[names[0]][0].mean()
    claims = [
        ("DRaFT-LV", "DRaFT-1"),
        ("DRaFT-LV", "ReFL"),
        ("DRaFT-1", "DRaFT"),
        ("DPG", "DRaFT"),
        ("DRaFT-1", "DPG"),
        ("DRaFT", "DDPO"),
    ]
    claims = [pair for pair in claims if set(pair) <= set(end)]
    told = [f"{a} > {b}: {compare(end[a], end[b])}" for a, b in claims]
    agreed = sum(text.endswith("yes") for text in told)
    word = "Holds" if agreed == len(claims) else "Holds in part"
    if 2 * agreed < len(claims):
        word = "Does not hold"
    largest = sum(runs[0]["learning_rate"] == max(rates) for runs in found.values())
    reached = ", ".join(f"{n} {y.mean():.1f} ± {y.std():.1f}" for n, y in end.items())
    verdict(
        args.out,
        f"{word} here ({agreed} of {len(claims)}; {'; '.join(told)}): held-out reward "
        f"from {before:.1f}, after {train_steps} steps: {reached} ({seeds} seeds, "
        f"{total} sampling steps; {largest} of {len(found)} at the largest rate of "
        f"{rates}).",
    )


if __name__ == "__main__":
    main()
