"""A reward pursued too far, and what the automatic stop makes of it.

python benchmarks/paper/over_optimization.py          # embedded model, 4 minutes
python benchmarks/paper/over_optimization.py --full   # Stable Diffusion 1.4

The claim (appendix B.8 of the paper): training for long, or at a large learning rate,
collapses to images that are all alike. `draftx.EarlyStopping` is ours: it is to stop
such a run, and to return the adapter from before the collapse.

The same DRaFT-1 run is done twice a seed, to its end and with early stopping, which
goes by the held-out reward of images whose diversity is at least `--min-diversity`
of what it was. Diversity is the mean distance of two images of the same prompt. A
score of text alignment that nothing is trained on is watched as well. The reward is
compressibility.
"""

import jax.random as jr
import matplotlib
import numpy as np
from _common import parser, verdict
from _runs import (
    HELD_OUT,
    load_quick,
    path_of,
    Recipe,
    sampling_of,
    train,
    write,
)

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


def main() -> None:
    options = parser(__doc__, "over_optimization")
    options.add_argument("--train-steps", type=int)
    options.add_argument("--learning-rate", type=float)
    options.add_argument("--every", type=int, help="steps between evaluations")
    options.add_argument("--patience", type=int, default=2, help="in evaluations")
    options.add_argument("--min-diversity", type=float, default=0.5)
    args = options.parse_args()
    pipeline, _ = load_quick(args)
    train_steps = args.train_steps or (5000 if args.full else 30)
    every = args.every or max(1, train_steps // 10)
    seeds = args.seeds or 3
    judge = "clip" if args.full else "tiny-clip"
    stopping = draftx.EarlyStopping(
        patience=args.patience, min_diversity=args.min_diversity
    )
    runs = {}
    for name, early_stopping in (("to the end", None), ("stopped", stopping)):
        recipe = Recipe(
            draftx.DRaFT(truncation_steps=1),
            train_steps,
            others=(judge,),
            every=every,
            early_stopping=early_stopping,
        )
        rate = args.learning_rate or (2e-3 if args.full else 6e-3)
        runs[name] = [
            train(pipeline, recipe, args, seed=seed, learning_rate=rate)
            for seed in range(seeds)
        ]
    write(args.out, [row for of_name in runs.values() for row in of_name])
    ended = [row["evaluations"][-1] for row in runs["to the end"]]
    kept = [
        next(e for e in row["evaluations"] if e["step"] == row["kept_step"])
        for row in runs["stopped"]
    ]
    first = runs["to the end"][0]["evaluations"][0]

    figure = plt.figure(figsize=(11, 6.5), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1))
    names = {"reward": "held-out reward", "diversity": "diversity", judge: judge}
    for axis, (name, label) in zip(above.subplots(1, 3), names.items(), strict=True):
        for seed in range(seeds):
            row = runs["to the end"][seed]
            x = [e["step"] for e in row["evaluations"]]
            axis.plot(x, [e[name] for e in row["evaluations"]], color=f"C{seed}")
            point = (runs["stopped"][seed]["kept_step"], kept[seed][name])
            axis.plot(*point, "o", color=f"C{seed}")
            axis.axvline(
                runs["stopped"][seed]["evaluations"][-1]["step"],
                color=f"C{seed}",
                linestyle=":",
            )
        axis.set(xlabel="training step (dots: kept, dotted: stopped)", title=label)
        axis.grid(alpha=0.3)
    drawn = {"before": pipeline} | {
        name: draftx.load_lora(pipeline, path_of(runs[key][0]))
        for name, key in (("kept", "stopped"), ("at the end", "to the end"))
    }
    axes = below.subplots(len(drawn), 2 * len(HELD_OUT))
    for line, (name, of_name) in zip(axes, drawn.items(), strict=True):
        images = draftx.sample(
            of_name,
            [prompt for prompt in HELD_OUT for _ in range(2)],
            sampling_of(args),
            key=jr.key(1),
        )
        line[0].set_ylabel(name)
        for axis, image in zip(line, np.asarray(images), strict=True):
            axis.imshow(np.clip(image, 0, 1))
            axis.set(xticks=[], yticks=[])
    figure.savefig(args.out / "over_optimization.png", dpi=120)

    def told(figures: list[dict], name: str) -> str:
        values = np.array([e[name] for e in figures])
        return f"{values.mean():.3g} ± {values.std():.2g}"

    least = args.min_diversity * first["diversity"]
    collapsed = sum(e["diversity"] < least for e in ended)
    has_stopped = [row["stopped"] is not None for row in runs["stopped"]]
    saved = sum(
        stopped and e["diversity"] >= least and e["reward"] > first["reward"]
        for stopped, e in zip(has_stopped, kept, strict=True)
    )
    at = [row["evaluations"][-1]["step"] for row in runs["stopped"]]
    steps = [row["kept_step"] for row in runs["stopped"]]
    word = "Holds" if collapsed == saved == seeds else "Does not hold"
    verdict(
        args.out,
        f"{word} here: {collapsed} of {seeds} seeds collapse (diversity "
        f"{first['diversity']:.3g} → {told(ended, 'diversity')} after {train_steps} "
        f"steps, {judge} {first[judge]:.3g} → {told(ended, judge)}, reward "
        f"{first['reward']:.3g} → {told(ended, 'reward')}); the stop saves {saved}: it "
        f"ends training at steps {at} and keeps {steps}, with diversity "
        f"{told(kept, 'diversity')}, {judge} {told(kept, judge)}, reward "
        f"{told(kept, 'reward')}.",
    )


if __name__ == "__main__":
    main()
