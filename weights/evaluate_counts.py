"""Measures how many animals a pipeline draws when it is told to: into `figures.json`.

python weights/evaluate_counts.py --sprites weights/cache/sprites.npz

Prompts are every animal, once with each number from one to four, and once without a
number ("foxes"). The judge that counts says what an image shows; the embedded counter,
which is a reward, is measured beside it.
"""

import argparse
import itertools
import json
import pathlib
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from composites import draw_scenes, tile
from counted import counted_caption, MOST, random_counted_scene, scenes_to_count
from cutouts import Sprites
from evaluate import add_figures, rounded
from judge import COUNTING_HEADS, load_counting_judge, predict, scene_labels
from PIL import Image
from scenes import ANIMALS, COLORS, NUMBERS, PATTERNS, phrase, STYLES

import draftx


BATCH_SIZE = 45
COUNTS = (1, 2, 3, 4)
# What the published weights have to reach.
TARGETS = {"generated": {"count": 0.8}, "counter": {"held_out_right": 0.9}}


def asked_scenes(sprites: Sprites, count: int) -> list[Any]:
    """Every animal so many times, styles, patterns and colors going round."""
    rng = np.random.default_rng([7, count])
    return [
        random_counted_scene(
            rng,
            sprites,
            count,
            animals=(animal,),
            styles=(STYLES[(i + count) % len(STYLES)],),
            patterns=(PATTERNS[(i + 2 * count) % len(PATTERNS)],),
            colors=(tuple(COLORS)[(i + 5 * count) % len(COLORS)],),
        )
        for i, animal in enumerate(ANIMALS)
    ]


def draw(pipeline, prompts, sampling, *, key) -> np.ndarray:
    """Images of prompts, a batch at a time."""
    parts = [prompts[i : i + BATCH_SIZE] for i in range(0, len(prompts), BATCH_SIZE)]
    keys = jr.split(key, len(parts))
    images = [
        draftx.sample(pipeline, part, sampling, key=k)
        for part, k in zip(parts, keys, strict=True)
    ]
    return np.concatenate(images)


def agreement(seen, scenes) -> dict[str, float]:
    """How often each head says what was asked for, and all of them."""
    right = seen == scene_labels(scenes, COUNTING_HEADS)
    figures = dict(zip(COUNTING_HEADS, right.mean(0).tolist(), strict=True))
    return figures | {"all": right.all(1).mean().item()}


def counted(counter, images) -> np.ndarray:
    """The soft count of each image."""
    count = eqx.filter_jit(counter.counter)
    parts = [images[i : i + 64] for i in range(0, len(images), 64)]
    return np.concatenate([np.asarray(count(jnp.asarray(part))) for part in parts])


def main() -> None:
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--pipeline", default="tiny")
    parser.add_argument("--out", type=pathlib.Path, default=here / "figures.json")
    parser.add_argument("--sheet", type=pathlib.Path, help="images drawn, .png")
    parser.add_argument("--num-inference-steps", type=int, default=30)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--num-animals", type=int, default=len(ANIMALS))
    args = parser.parse_args()
    sprites, judge = Sprites(args.sprites), load_counting_judge()
    counter: Any = draftx.rewards.load("tiny-counter")
    pipeline = draftx.load(args.pipeline)
    sampling = draftx.Sampling(args.num_inference_steps, args.guidance_scale)

    every = len(ANIMALS) // args.num_animals
    scenes = {count: asked_scenes(sprites, count)[::every] for count in COUNTS}
    several = [*itertools.chain.from_iterable(scenes.values())]
    wanted = np.asarray([len(scene.centers) for scene in several])
    count_head = list(COUNTING_HEADS).index("count")

    real = draw_scenes(sprites, several).astype(np.float32) / 255
    prompts = [counted_caption(scene) for scene in several]
    generated = draw(pipeline, prompts, sampling, key=jr.key(7))
    figures: dict[str, Any] = {}
    for kind, images in (("real", real), ("generated", generated)):
        seen = predict(judge, images)
        by_number = {
            NUMBERS[n]: float(np.mean(seen[wanted == n, count_head] == n))
            for n in COUNTS
        }
        figures[kind] = agreement(seen, several) | {"count_by_number": by_number}
    # Without a number: how often there are how many.
    plurals = [phrase(scene, number=False) for scene in scenes[COUNTS[-1]]]
    without = draw(pipeline, plurals, sampling, key=jr.key(8))
    found = predict(judge, without)[:, count_head]
    figures["without_a_number"] = {
        NUMBERS[n]: float(np.mean(found == n)) for n in range(MOST + 1)
    }

    held_out = scenes_to_count(
        np.random.default_rng([8, 0]), sprites, 512, held_out=True
    )
    truth = np.asarray([len(scene.centers) for scene in held_out])
    off = (
        counted(counter, draw_scenes(sprites, held_out).astype(np.float32) / 255)
        - truth
    )
    # On drawn images the truth is what the judge sees.
    judged = predict(judge, generated)[:, count_head]
    off_drawn = counted(counter, generated) - judged
    figures["counter"] = {
        "held_out_error": float(np.mean(np.abs(off))),
        "held_out_right": float(np.mean(np.abs(off) < 0.5)),
        "generated_error": float(np.mean(np.abs(off_drawn))),
        "generated_agrees_with_judge": float(np.mean(np.abs(off_drawn) < 0.5)),
    }

    figures = rounded(figures)
    print(json.dumps(figures, indent=2))
    for name, targets in TARGETS.items():
        for figure, target in targets.items():
            if figures[name][figure] < target:
                print(f"{name}: {figure} misses its target of {target}")
    add_figures(args.out, {"counts": figures})
    if args.sheet is not None:
        drawn = np.concatenate([generated, without])
        Image.fromarray(tile(np.round(255 * drawn).astype(np.uint8), 15)).save(
            args.sheet
        )


if __name__ == "__main__":
    main()
