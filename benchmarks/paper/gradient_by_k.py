"""Norm and direction of the gradient by K: figures 8 and 24 of the paper.

python benchmarks/paper/gradient_by_k.py          # embedded model, a few minutes
python benchmarks/paper/gradient_by_k.py --full   # Stable Diffusion 1.4

The claim: the norm of the gradient grows with the number of steps that it passes
through, and for many steps it is nearly orthogonal to that of the last step alone.

Prompts and noise are the same for all K; with `--seeds`, several of both. The adapter
is as at the start of training. The reward is compressibility.
"""

import jax.random as jr
import matplotlib
import numpy as np
from _common import ANIMALS, load, parser, Rows, verdict
from tqdm import tqdm

import draftx


matplotlib.use("agg")
import matplotlib.pyplot as plt


def flat_gradient(pipeline, reward, k, args, seed):
    prompts = [f"a {ANIMALS[(seed + i) % len(ANIMALS)]}" for i in range(args.batch)]
    _, gradient = draftx.reward_gradient(
        pipeline,
        reward,
        prompts,
        draftx.Sampling(args.num_inference_steps),
        method=draftx.DRaFT(truncation_steps=k),
        key=jr.key(seed),
    )
    leaves = draftx.lora_state_dict(gradient).values()
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def main() -> None:
    options = parser(__doc__, "gradient_by_k")
    options.add_argument("--k", type=int, nargs="+", help="1 and T are always there")
    args = options.parse_args()
    pipeline = load(args)
    seeds = args.seeds or 3
    total = args.num_inference_steps
    ks = sorted({1, total, *(args.k or [k for k in (2, 5, 10) if k < total])})
    if not 1 <= ks[0] <= ks[-1] <= total:
        options.error(f"--k must lie in [1, {total}]; got {args.k}.")
    pipeline = draftx.add_lora(pipeline, rank=args.rank, key=jr.key(0))
    reward = draftx.rewards.JPEGCompressibility()
    settings = {"model": args.model, "steps": total, "batch": args.batch}
    rows = Rows(args.out, settings | {"rank": args.rank})
    first = {}
    for k in tqdm(ks, desc="K"):
        for seed in range(seeds):
            key = {"k": k, "seed": seed}
            if rows.find(**key) is not None and (k > 1 or seed in first):
                continue
            if k > 1 and seed not in first:
                first[seed] = flat_gradient(pipeline, reward, 1, args, seed)
            if rows.find(**key) is not None:
                continue
            gradient = flat_gradient(pipeline, reward, k, args, seed)
            if k == 1:
                first[seed] = gradient
            norm = float(np.linalg.norm(gradient))
            cosine = gradient @ first[seed] / norm / np.linalg.norm(first[seed])
            rows.add(key, {"norm": norm, "cosine_to_k1": float(cosine)})
    found = {k: [rows.get(k=k, seed=seed) for seed in range(seeds)] for k in ks}
    norms = np.array([[r["norm"] for r in found[k]] for k in ks])
    angles = np.degrees(
        np.arccos(np.clip([[r["cosine_to_k1"] for r in found[k]] for k in ks], -1, 1))
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axis, values, name in (
        (left, norms, "norm of the gradient"),
        (right, angles, "angle to DRaFT-1, degrees"),
    ):
        axis.errorbar(ks, values.mean(1), values.std(1), marker="o", capsize=3)
        axis.set(xlabel="K", ylabel=name, xscale="log", xticks=ks, xticklabels=ks)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    left.set_yscale("log")
    right.axhline(90, color="gray", linestyle=":")
    figure.savefig(args.out / "gradient_by_k.png", dpi=150)
    growth = norms[-1] / norms[0]
    holds = bool(np.all(growth > 2) and np.all(angles[-1] > 60))
    verdict(
        args.out,
        f"{'Holds' if holds else 'Does not hold'} here: from K=1 to K={total} the norm "
        f"grows {growth.mean():.1f} times (± {growth.std():.1f}, {seeds} seeds), the "
        f"angle to DRaFT-1 is {angles[-1].mean():.0f}° (± {angles[-1].std():.0f}).",
    )


if __name__ == "__main__":
    main()
