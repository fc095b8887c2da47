"""Decoding by value beside what needs no value, at equal cost.

python benchmarks/paper/svdd.py          # embedded model
python benchmarks/paper/svdd.py --full   # Stable Diffusion 1.4
python benchmarks/paper/svdd.py --seeds 1 --images 4 --num-images 64 \\
    --num-fit-steps 50 --chains 2 --candidates 2 --learned-candidates 4   # rehearsal

The claim (SVDD, arXiv 2408.08252): taking the best of several candidates at each step,
by what they are worth, gives higher rewards than best of N, SMC and DPS, and asks
nothing to be differentiable. Here it is asked at equal cost: at equal evaluations of
the UNet, and at equal reward queries.

The reward is what a real JPEG file has less of, in kilobytes at quality 95, as in the
authors' code. DPS, which needs a gradient, is pushed by the differentiable
compressibility, and scored by the same files. Everything draws the same held-out
prompts with `eta=1`. A value is fitted once for each seed, on the prompts that
`_runs.py` trains on; what that costs is in the table and not in the curves. What has a
size of one chain (a learned value, DPS) is drawn `--chains` times and the best image is
kept, as with best of N. Of several temperatures of SMC and scales of DPS the one is
shown that is best at its largest size on the first seed.
"""

import json
from typing import Any

import jax.random as jr
import matplotlib
import numpy as np
from _common import parser, Rows, verdict
from _runs import guidance, HELD_OUT, load_quick, TRAINED
from _tuned import jpeg_bytes

import draftx
from draftx import search


matplotlib.use("agg")
import matplotlib.pyplot as plt


METHODS = ("best of N", "SVDD-PM", "SVDD, learned", "SMC", "SMC, learned", "DPS")


def _kilobytes(images: np.ndarray) -> np.ndarray:
    return -jpeg_bytes(images, quality=95) / 1000


REWARD = draftx.rewards.HostReward(_kilobytes)


def fit(pipeline, args, seed, rows) -> tuple[search.LearnedValue, dict[str, Any]]:
    """The value of a seed, fitted unless it is there already."""
    key = {"method": "fit", "seed": seed, "fit": [args.num_images, args.num_fit_steps]}
    name = f"{args.num_images}-{args.num_fit_steps}-{seed}"
    folder = args.out / f"value-{name}"
    row = rows.find(**key)
    if row is not None and folder.is_dir():
        return search.load_value(folder), row
    fitted = search.fit_value(
        pipeline,
        REWARD,
        TRAINED,
        args.sampling,
        num_images=args.num_images,
        num_train_steps=args.num_fit_steps,
        key=jr.key(1000 + seed),
        checkpoints=draftx.Checkpoints(args.out / f"fit-{name}", total_limit=1),
    )
    search.save_value(fitted.value, folder)
    # `images` is a setting, those that are wanted.
    spent = fitted.budget.as_dict()
    spent = {name: spent[name] for name in spent if name != "images"}
    figures = {"explained": fitted.explained.tolist(), **spent}
    return fitted.value, row or rows.add(key, figures)


def draw(name, pipeline, args, size, knob, key, value):
    """One search: its images' rewards, its cost an image, rewards on the way."""
    prompts = [HELD_OUT[i % len(HELD_OUT)] for i in range(args.images)]
    rest: dict[str, Any] = dict(key=key, progress=False)
    if name == "best of N":
        found = search.best_of_n(
            pipeline, REWARD, prompts, args.sampling, n=size, **rest
        )
        return found, found.history
    if name == "DPS":
        guide = draftx.rewards.JPEGCompressibility()
        found = search.dps(
            *(pipeline, guide, prompts, args.sampling),
            scale=knob,
            normalize=True,
            **rest,
        )
        return found, _kilobytes(np.asarray(found.images))[None]
    used = value if "learned" in name else search.PosteriorMean()
    if name.startswith("SVDD"):
        found = search.svdd(
            *(pipeline, REWARD, prompts, args.sampling),
            num_candidates=size,
            value=used,
            select_last=args.select_last,
            **rest,
        )
    else:
        found = search.smc(
            *(pipeline, REWARD, prompts, args.sampling),
            num_particles=size,
            temperature=knob,
            value=used,
            **rest,
        )
    return found, np.asarray(found.rewards)[None]


def measure(name, pipeline, args, size, knob, seed, value) -> dict[str, Any]:
    """Mean rewards of the best until then, and what an image cost until then."""
    of_one_chain = name in ("SVDD, learned", "DPS")
    rewards, evaluations, queries, seconds = [], [], [], 0.0
    for chain in range(args.chains if of_one_chain else 1):
        key = jr.fold_in(jr.key(seed), chain)
        found, scores = draw(name, pipeline, args, size, knob, key, value)
        budget = found.budget
        cost = (budget.unet_forwards + budget.unet_backwards) / args.images
        each = np.arange(1, len(scores) + 1) / len(scores)
        evaluations += (sum(evaluations[-1:]) + each * cost).tolist()
        asked = budget.reward_queries / args.images
        queries += (sum(queries[-1:]) + each * asked).tolist()
        rewards += scores.tolist()
        seconds += budget.seconds
    best = np.maximum.accumulate(np.asarray(rewards), axis=0)
    return {
        "rewards": best.mean(axis=1).tolist(),
        "evaluations": evaluations,
        "queries": queries,
        "seconds": round(seconds, 1),
    }


def sizes_of(name: str, args) -> list[int]:
    match name:
        case "best of N":
            return [args.best_of]
        case "SVDD, learned":
            return args.learned_candidates
        case "DPS":
            return [1]
        case _:
            return args.candidates


def collect(pipeline, args, rows) -> tuple[dict[str, list[list[dict]]], list[dict]]:
    """Rows of all methods: by seed, then by size; and those of the fits."""
    fits = [fit(pipeline, args, seed, rows) for seed in range(args.seeds)]
    # Rows of the methods that ask no value are the same for every fit.
    of_fit = {"fit": [args.num_images, args.num_fit_steps]}
    found: dict[str, list[list[dict]]] = {}
    for name in METHODS:
        knobs = {"DPS": args.scales, "SMC": args.temperatures}
        knobs = knobs.get(name.split(",")[0], [None])

        def row(size, knob, seed, name=name):
            key = {"method": name, "size": size, "knob": knob, "seed": seed}
            key |= of_fit if "learned" in name else {}
            key |= {"chains": args.chains} if name in ("SVDD, learned", "DPS") else {}
            key |= {"select_last": args.select_last} if "SVDD" in name else {}
            known = rows.find(**key)
            if known is not None:
                return known
            value = fits[seed][0]
            return rows.add(key, measure(name, pipeline, args, size, knob, seed, value))

        sizes = sizes_of(name, args)
        knob = max(knobs, key=lambda knob: row(sizes[-1], knob, 0)["rewards"][-1])
        found[name] = [
            [row(size, knob, seed) for size in sizes] for seed in range(args.seeds)
        ]
    return found, [figures for _, figures in fits]


def curve(parts: list[list[dict]], cost: str) -> tuple[np.ndarray, np.ndarray]:
    """What all seeds reached for a cost, cheapest first: costs, rewards by seed."""
    x = np.asarray(sum((part[cost] for part in parts[0]), []))
    y = np.asarray([sum((part["rewards"] for part in seed), []) for seed in parts])
    order = np.argsort(x, kind="stable")
    return x[order], y[:, order]


def at(parts: list[list[dict]], cost: str, budget: float) -> np.ndarray | None:
    """The best that each seed has at no more than this; `None` if nothing is cheap."""
    x, y = curve(parts, cost)
    within = x <= budget * (1 + 1e-6)
    return y[:, within].max(axis=1) if within.any() else None


def table(found, budgets: dict[str, list[float]]) -> tuple[str, list[dict]]:
    lines, figures = [], []
    for cost, values in budgets.items():
        lines += [f"| {cost} an image | " + " | ".join(found) + " |"]
        lines += ["| --- " * (1 + len(found)) + "|"]
        for budget in values:
            cells = []
            for name, parts in found.items():
                y = at(parts, cost, budget)
                cells += ["" if y is None else f"{y.mean():.3f} ± {y.std():.3f}"]
                mean = None if y is None else round(float(y.mean()), 4)
                std = None if y is None else round(float(y.std()), 4)
                row = {"cost": cost, "budget": budget, "method": name}
                figures.append(row | {"reward": mean, "std": std})
            lines += [f"| {budget:g} | " + " | ".join(cells) + " |"]
        lines += [""]
    return "\n".join(lines), figures


def plot(found, args) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for name, parts in found.items():
        for axis, cost in zip(axes, ("evaluations", "queries"), strict=False):
            x, y = curve(parts, cost)
            y = np.maximum.accumulate(y, axis=1)
            axis.plot(x, y.mean(0), marker=".", label=name)
            axis.fill_between(x, y.min(0), y.max(0), alpha=0.15)
        sizes = sizes_of(name, args)
        ends = np.asarray([[p["rewards"][0] for p in seed] for seed in parts])
        if name == "best of N":
            sizes = range(1, args.best_of + 1)
            ends = np.asarray([seed[0]["rewards"] for seed in parts])
        axes[2].plot(sizes, ends.mean(0), marker=".", label=name)
    axes[0].set(xlabel="UNet evaluations an image")
    axes[1].set(xlabel="reward queries an image")
    axes[2].set(xlabel="candidates, particles or images, one chain")
    axes[0].set(ylabel="reward: -kB of a JPEG file")
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(args.out / "svdd.png", dpi=150)


def main() -> None:
    options = parser(__doc__, "svdd")
    options.add_argument("--images", type=int, default=8)
    options.add_argument("--best-of", type=int, default=16)
    options.add_argument("--chains", type=int, default=8, help="of one-chain searches")
    options.add_argument("--candidates", type=int, nargs="+", default=[2, 4, 8, 16])
    options.add_argument(
        "--learned-candidates", type=int, nargs="+", default=[2, 4, 8, 16, 64]
    )
    options.add_argument("--temperatures", type=float, nargs="+", default=[0.03, 0.1])
    options.add_argument("--scales", type=float, nargs="+", default=[0.03, 0.1])
    options.add_argument("--num-images", type=int, default=512, help="of a fit")
    options.add_argument("--num-fit-steps", type=int, default=500)
    options.add_argument("--select-last", action="store_true")
    args = options.parse_args()
    pipeline, total = load_quick(args)
    args.seeds = args.seeds or 3
    args.sampling = draftx.Sampling(total, guidance(args), eta=1.0)
    draftx.enable_compilation_cache()
    rows = Rows(args.out, {"model": args.model, "steps": total, "images": args.images})
    found, fits = collect(pipeline, args, rows)
    chain = 2 * total
    budgets = {
        "evaluations": [chain * n for n in (1, 2, 4, 8, 16)],
        "queries": [1, 2, 4, 8, 16, 64],
    }
    text, figures = table(found, budgets)
    explained = np.mean([row["explained"] for row in fits], axis=0)
    seconds = np.mean([row["seconds"] for row in fits])
    text += (
        f"A fit: {fits[0]['fit'][0]} images, {fits[0]['reward_queries']} reward "
        f"queries, {fits[0]['unet_forwards']} UNet evaluations, {seconds:.0f} s; of "
        "the variance of held-out rewards it explains, step by step, "
        + ", ".join(f"{part:.2f}" for part in explained)
        + ".\n"
    )
    (args.out / "table.md").write_text(text)
    (args.out / "table.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(text)
    plot(found, args)
    ahead = []
    for budget in budgets["evaluations"]:
        learned = at(found["SVDD, learned"], "evaluations", budget)
        best = at(found["best of N"], "evaluations", budget)
        if learned is None or best is None:
            continue
        gain = learned.mean() - best.mean()
        ahead.append((budget, gain, gain > np.hypot(learned.std(), best.std())))
    holds = bool(ahead) and all(clear for *_, clear in ahead)
    told = ", ".join(f"{gain:+.3f} at {budget:g}" for budget, gain, _ in ahead)
    verdict(
        args.out,
        f"{'Holds' if holds else 'Does not hold'} here: the learned value less best of "
        f"N, in kB, by UNet evaluations an image: {told} ({args.seeds} seeds, "
        f"{args.images} images, {total} sampling steps).",
    )


if __name__ == "__main__":
    main()
