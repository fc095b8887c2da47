"""Before and after training on three rewards: figures 11 and 29 of the paper.

python benchmarks/paper/jpeg_and_rotation.py          # embedded model, a few minutes
python benchmarks/paper/jpeg_and_rotation.py --full   # Stable Diffusion 1.4

The claim: JPEG compressibility leads to simple images of low frequency and
incompressibility to complex ones of high frequency; rotational anti-correlation to
black-and-white images unlike their rotations.

What decides is no reward: the sizes of real JPEG files, less their headers, and for
rotation the chroma, the mean over pixels of the largest channel minus the smallest.
Prompts and noise are held out, and the same before and after.
"""

import matplotlib
import numpy as np
from _common import parser, Rows, verdict
from _runs import HELD_OUT, make_reward
from _tuned import (
    add_training_options,
    draw,
    jpeg_bytes,
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


REWARDS = ("compressibility", "incompressibility", "rotation")
COLUMNS = 3


def figures_of(reward: str, images: np.ndarray, when: str) -> dict[str, float]:
    figures = {
        "reward": score(make_reward(reward), images),
        "bytes": float(jpeg_bytes(images).mean()),
        "chroma": float(np.mean(images.max(-1) - images.min(-1))),
    }
    return {f"{name}_{when}": value for name, value in figures.items()}


def main() -> None:
    options = parser(__doc__, "jpeg_and_rotation")
    add_training_options(options)
    args = options.parse_args()
    pipeline = load_short(args)
    rows = Rows(args.out, settings_of(args))
    for reward in tqdm(REWARDS, desc="rewards"):
        for seed in tqdm(range(args.seeds), desc="seeds", leave=False):
            if rows.find(reward=reward, seed=seed) is not None:
                continue
            after = tuned(pipeline, args, reward, seed)
            figures = figures_of(reward, draw(after, args), "after")
            before = draw(draftx.scale_lora(after, 0), args)
            figures |= figures_of(reward, before, "before")
            rows.add({"reward": reward, "seed": seed}, figures)
    figure, axes = plt.subplots(
        len(REWARDS), 2 * COLUMNS, figsize=(9, 5.2), layout="constrained"
    )
    for axis_row, reward in zip(axes, REWARDS, strict=True):
        after = tuned(pipeline, args, reward, 0)
        for half, name, model in (
            (axis_row[:COLUMNS], "before", draftx.scale_lora(after, 0)),
            (axis_row[COLUMNS:], "after", after),
        ):
            images = draw(model, args, num_samples=1)[:COLUMNS]
            sizes = jpeg_bytes(images)
            for i, axis in enumerate(half):
                title = f"{HELD_OUT[i]}, {name}" if reward == REWARDS[0] else ""
                show(axis, images[i], title=title, below=f"{sizes[i]} bytes")
        axis_row[0].set_ylabel(reward, fontsize=8)
    figure.savefig(args.out / "jpeg_and_rotation.png", dpi=150)

    found = {
        r: [rows.get(reward=r, seed=s) for s in range(args.seeds)] for r in REWARDS
    }
    ratio = lambda reward, name: np.array(
        [row[f"{name}_after"] / row[f"{name}_before"] for row in found[reward]]
    )
    smaller, larger = (ratio(reward, "bytes") for reward in REWARDS[:2])
    unlike, chroma = ratio("rotation", "reward"), ratio("rotation", "chroma")
    claims = {
        "compressibility": np.all(smaller < 1),
        "incompressibility": np.all(larger > 1),
        "unlike their rotations": np.all(unlike > 1),
        "black and white": np.all(chroma < 1),
    }
    failed = [name for name, holds in claims.items() if not holds]
    spread = lambda x: f"{x.mean():.2f} (± {x.std():.2f}, {len(x)} seeds)"
    verdict(
        args.out,
        f"{'Does not hold here for ' + ', '.join(failed) if failed else 'Holds here'}: "
        f"real JPEG files at quality 80 have {spread(smaller)} times as many bytes "
        f"after compressibility and {spread(larger)} times after incompressibility; "
        f"after rotation its reward is {spread(unlike)} times what it was and the "
        f"chroma {spread(chroma)} times.",
    )


if __name__ == "__main__":
    main()
