"""Scaling one adapter and mixing two: figures 5, 7 and 19 to 21 of the paper.

python benchmarks/paper/lora_scaling_and_mixing.py          # embedded model, minutes
python benchmarks/paper/lora_scaling_and_mixing.py --full   # Stable Diffusion 1.4

The claim: scaling an adapter by a number from 0 to 1 interpolates smoothly between the
pre-trained and the tuned model; adapters of two rewards can be mixed with weights w and
1 - w, or summed, and the images then have something of both.

A gain is the rise of a reward on held-out prompts above the pre-trained model, as a
fraction of what the adapter trained on that reward gains at scale 1. "Smoothly" is
taken as: on the mean of the seeds the gain never falls from one scale to the next, and
no quarter of the way brings more than half of it.
"""

import matplotlib
import numpy as np
from _common import parser, Rows, verdict
from _runs import make_reward
from _tuned import (
    add_training_options,
    draw,
    load_short,
    score,
    settings_of,
    show,
    tuned,
)
from tqdm import tqdm

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


REWARDS = ("compressibility", "rotation")
SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    options = parser(__doc__, "lora_scaling_and_mixing")
    add_training_options(options)
    args = options.parse_args()
    pipeline = load_short(args)
    scaled = ([(s, 0.0) for s in SCALES], [(0.0, s) for s in SCALES])
    mixed = [(w, 1 - w) for w in WEIGHTS]
    rows = Rows(args.out, settings_of(args) | {"rewards": list(REWARDS)})
    for seed in tqdm(range(args.seeds), desc="seeds"):
        pair = [tuned(pipeline, args, reward, seed) for reward in REWARDS]
        for weights in dict.fromkeys([*scaled[0], *scaled[1], *mixed, (1.0, 1.0)]):
            key = {"weights": list(weights), "seed": seed}
            if rows.find(**key) is None:
                images = draw(draftx.mix_lora(pair, weights), args)
                rows.add(key, {r: score(make_reward(r), images) for r in REWARDS})

    def gains(reward: str, weights: list[tuple[float, float]]) -> np.ndarray:
        """Of every mixture, for every seed."""
        alone = tuple(float(name == reward) for name in REWARDS)
        base, best, at = (
            np.array(
                [
                    [
                        rows.get(weights=list(w), seed=s)[reward]
                        for s in range(args.seeds)
                    ]
                    for w in some
                ]
            )
            for some in ([(0.0, 0.0)], [alone], weights)
        )
        return (at - base) / (best - base)

    of_scales = [gains(r, some) for r, some in zip(REWARDS, scaled, strict=True)]
    of_mixed = [gains(reward, mixed) for reward in REWARDS]
    half, summed = (
        np.array([gains(reward, [weights])[0] for reward in REWARDS])
        for weights in ((0.5, 0.5), (1.0, 1.0))
    )
    figure = plt.figure(figsize=(9, 8.5), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=(3.2, 5.3))
    upper, lower = (figure.add_subfigure(part) for part in parts)
    left, right = upper.subplots(1, 2)
    for axis, x, curves in ((left, SCALES, of_scales), (right, WEIGHTS, of_mixed)):
        for reward, at in zip(REWARDS, curves, strict=True):
            options_ = {"marker": "o", "capsize": 3, "label": reward}
            axis.errorbar(x, at.mean(1), at.std(1), **options_)
    left.set(xlabel="scale of the adapter", ylabel="gain of its reward")
    right.set(xlabel=f"weight of {REWARDS[0]}, rest {REWARDS[1]}", ylabel="gain")
    for axis in (left, right):
        axis.axhline(0, color="gray", linestyle=":")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    grid = lower.subplots(3, len(SCALES))
    pair = [tuned(pipeline, args, reward, 0) for reward in REWARDS]
    for axis_row, some in zip(grid, (*scaled, [*mixed, (1.0, 1.0)]), strict=True):
        for axis in axis_row:
            axis.set_axis_off()
        for axis, weights in zip(axis_row, some, strict=False):
            image = draw(draftx.mix_lora(pair, weights), args, num_samples=1)[1]
            axis.set_axis_on()
            show(axis, image, title=f"{weights[0]:g} C + {weights[1]:g} R")
    figure.savefig(args.out / "lora_scaling_and_mixing.png", dpi=150)

    rises = [np.diff(at.mean(1)[: SCALES.index(1.0) + 1]) for at in of_scales]
    order = [np.diff(at.mean(1)) for at in of_mixed]
    claims = {
        "smooth scaling": all(np.all((0 <= x) & (x <= 0.5)) for x in rises),
        "mixtures in order": np.all(order[0] >= 0) and np.all(order[1] <= 0),
        "a gain in both by half and half": np.all(half.mean(1) > 0),
        "a gain in both by the sum": np.all(summed.mean(1) > 0),
    }
    failed = [name for name, holds in claims.items() if not holds]

    def spread(values) -> str:
        return " and ".join(
            f"{x.mean():.2f} (± {x.std():.2f}) of {reward}'s"
            for x, reward in zip(values, REWARDS, strict=True)
        )

    means = lambda at: ", ".join(f"{mean:.2f}" for mean in at.mean(1))
    middle = [at[SCALES.index(0.5)] for at in of_scales]
    most = [at[-1] for at in of_scales]
    verdict(
        args.out,
        f"{'Does not hold here for ' + ', '.join(failed) if failed else 'Holds here'}: "
        f"scale 0.5 has {spread(middle)} gain, scale {SCALES[-1]} {spread(most)}; "
        f"half and half has {spread(half)}, the sum {spread(summed)}; from weight 0 to "
        f"1 of {REWARDS[0]} its gain is {means(of_mixed[0])}, that of {REWARDS[1]} "
        f"{means(of_mixed[1])} ({args.seeds} seeds).",
    )


if __name__ == "__main__":
    main()
