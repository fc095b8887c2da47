"""The adapter on for some of the steps only: figures 26 and 27 of the paper.

python benchmarks/paper/lora_start_end.py          # embedded model, a few minutes
python benchmarks/paper/lora_start_end.py --full   # Stable Diffusion 1.4

The claim: though it is trained on the last step alone, the adapter does not change
images in the last steps only; it must be on for 10 to 20 of 50 steps to change them
substantially, and it is important in the early ones.

The adapter is that of DRaFT-1. The gain is the rise of the reward above the pre-trained
model's, the change is the root mean square distance to its images, both on held-out
prompts and as fractions of what they are with the adapter on at all steps. The claim is
taken as: the last tenth of the steps has less than half of the gain, and without the
first fifth more than a tenth of it is lost.
"""

import matplotlib
import numpy as np
from _common import parser, Rows, verdict
from _runs import guidance, make_reward
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


SIDES = ("last", "first")
FRACTIONS = (0.1, 0.2, 0.4, 0.6, 0.8)


def main() -> None:
    options = parser(__doc__, "lora_start_end")
    add_training_options(options)
    options.add_argument("--reward", default="compressibility")
    args = options.parse_args()
    pipeline = load_short(args)
    total = args.num_inference_steps
    if total < 10:
        options.error(f"--num-inference-steps must be at least 10; got {total}.")
    some = sorted({round(fraction * total) for fraction in FRACTIONS})
    counts = [0, *some, total]
    rows = Rows(args.out, settings_of(args) | {"reward": args.reward})
    models = [tuned(pipeline, args, args.reward, seed) for seed in range(args.seeds)]

    def window(side: str, count: int) -> draftx.Sampling:
        on = None if count == total else draftx.LoRAWindow(**{side: count})
        return draftx.Sampling(total, guidance(args), lora_schedule=on)

    # Without any of its steps every adapter gives the same images.
    base = draw(models[0], args, sampling=window("last", 0))
    for side in tqdm(SIDES, desc="sides"):
        for count in tqdm(counts, desc="steps", leave=False):
            for seed, model in enumerate(models):
                key = {"side": side, "on": count, "seed": seed}
                if rows.find(**key) is None:
                    images = draw(model, args, sampling=window(side, count))
                    change = float(np.sqrt(np.mean((images - base) ** 2)))
                    figures = {"score": score(make_reward(args.reward), images)}
                    rows.add(key, figures | {"change": change})

    def fractions(side: str, name: str) -> np.ndarray:
        values = np.array(
            [
                [rows.get(side=side, on=n, seed=s)[name] for s in range(args.seeds)]
                for n in counts
            ]
        )
        return (values - values[0]) / (values[-1] - values[0])

    figure = plt.figure(figsize=(9, 6.5), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=(3.5, 3))
    upper, lower = (figure.add_subfigure(part) for part in parts)
    for axis, name in zip(upper.subplots(1, 2), ("score", "change"), strict=True):
        for side in SIDES:
            of = fractions(side, name)
            label = f"on for the {side} M steps"
            axis.errorbar(
                counts, of.mean(1), of.std(1), marker="o", capsize=3, label=label
            )
        axis.set(
            xlabel=f"M of {total} steps", ylabel=f"{name} as a fraction of all steps'"
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis_row, side in zip(lower.subplots(2, len(counts)), SIDES, strict=True):
        for axis, count in zip(axis_row, counts, strict=True):
            sampling = window(side, count)
            image = draw(models[0], args, sampling=sampling, num_samples=1)[1]
            show(axis, image, title=f"{side} {count}")
    figure.savefig(args.out / "lora_start_end.png", dpi=150)

    last, first = (fractions(side, "score") for side in SIDES)
    short, long = counts.index(round(0.1 * total)), counts.index(round(0.8 * total))
    moved = [fractions(side, "change")[short] for side in SIDES]
    claims = {
        "adaptation before the last steps": last[short].mean() < 0.5,
        "the early steps": last[long].mean() < 0.9,
    }
    failed = [name for name, holds in claims.items() if not holds]
    enough = lambda of: counts[int(np.argmax(of.mean(1) >= 0.5))]
    spread = lambda x: f"{x.mean():.2f} (± {x.std():.2f})"
    verdict(
        args.out,
        f"{'Does not hold here for ' + ', '.join(failed) if failed else 'Holds here'}: "
        f"of the gain, the last {counts[short]} of {total} steps have "
        f"{spread(last[short])}, the last {counts[long]} {spread(last[long])}, the "
        f"first {counts[short]} {spread(first[short])} and the first {counts[long]} "
        f"{spread(first[long])}; half of it takes the last {enough(last)} or the first "
        f"{enough(first)}. Of the change, the last {counts[short]} have "
        f"{spread(moved[0])} and the first {spread(moved[1])} ({args.seeds} seeds).",
    )


if __name__ == "__main__":
    main()
