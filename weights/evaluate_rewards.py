"""Measures the embedded CLIP and the embedded classifier: writes into `figures.json`.

python weights/evaluate_rewards.py --sprites weights/cache/sprites.npz

On composites whose combination of animal, style, pattern and color neither was trained
on, and on images that the embedded model draws.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from composites import draw_scenes
from cutouts import Sprites
from evaluate import add_figures, draw_again, evaluation_scenes, rounded, sample
from scenes import (
    ANIMALS,
    attributes,
    caption,
    COLORS,
    is_held_out,
    PATTERNS,
    phrase,
    Scene,
    STYLES,
)

import draftx


# Each image has this many captions to choose from, and each caption as many images.
NUM_CHOICES = 64
NUM_GROUPS = 8
# What the published weights have to reach.
TARGETS = {
    "clip": {
        "image_to_caption": 0.9,
        "caption_to_image": 0.9,
        "zero_shot_animal": 0.95,
        "zero_shot_background": 0.9,
        "generated_animal": 0.9,
        "generated_right_beats_wrong_animal": 0.98,
        "generated_right_beats_wrong_background": 0.98,
    },
    "classifier": {"held_out": 0.98, "generated": 0.95},
}


def held_out_scenes(sprites: Sprites) -> list[Scene]:
    """No two of them with the same caption."""
    rng = np.random.default_rng([6, 0])
    scenes = [
        Scene(*words, sprite_index=-1)
        for words in itertools.product(ANIMALS, STYLES, PATTERNS, COLORS)
    ]
    scenes = [scene for scene in scenes if is_held_out(scene)]
    chosen = rng.permutation(len(scenes))[: NUM_GROUPS * NUM_CHOICES]
    return [draw_again(rng, sprites, scenes[i]) for i in chosen]


def similarities(clip, images, captions) -> np.ndarray:
    """The cosines of all images with all captions."""
    said = clip.prepare(captions)
    parts = [images[i : i + NUM_CHOICES] for i in range(0, len(images), NUM_CHOICES)]
    return np.concatenate([np.asarray(_cosines(clip, said, x)).T for x in parts])


@eqx.filter_jit
def _cosines(clip, said, images):
    # The embedding of the images depends on no caption, and is computed once.
    one = lambda text: clip(images, jnp.broadcast_to(text, (len(images), len(text))))
    return jax.vmap(one)(said)


def top1(cosines, right) -> float:
    """How often the caption with the highest cosine is the right one."""
    return float(np.mean(np.argmax(cosines, axis=1) == right))


def retrieval(clip, images, captions) -> dict[str, float]:
    """Top-1, in groups of `NUM_CHOICES`."""
    hits = {"image_to_caption": [], "caption_to_image": []}
    for i in range(0, len(images), NUM_CHOICES):
        rows = slice(i, i + NUM_CHOICES)
        cosines = similarities(clip, images[rows], captions[rows])
        hits["image_to_caption"].append(top1(cosines, np.arange(NUM_CHOICES)))
        hits["caption_to_image"].append(top1(cosines.T, np.arange(NUM_CHOICES)))
    return {name: float(np.mean(values)) for name, values in hits.items()}


def zero_shot(clip, images, scenes) -> dict[str, float]:
    """Top-1 among phrases that name an animal, or a background, and nothing else."""
    where = np.asarray([attributes(scene) for scene in scenes])
    animals = [
        phrase(dataclasses.replace(scenes[0], name=name), style=False, background=False)
        for name in ANIMALS
    ]
    backgrounds = [
        phrase(dataclasses.replace(scenes[0], pattern=p, color=c), animal=False)
        for p, c in itertools.product(PATTERNS, COLORS)
    ]
    behind = len(COLORS) * where[:, 2] + where[:, 3]
    return {
        "zero_shot_animal": top1(similarities(clip, images, animals), where[:, 0]),
        "zero_shot_background": top1(similarities(clip, images, backgrounds), behind),
    }


def right_and_wrong(clip, images, scenes) -> dict[str, float]:
    """Whether drawn images score more with their own prompt than with wrong ones."""
    own = np.asarray(
        clip(jnp.asarray(images), clip.prepare([caption(s) for s in scenes]))
    )
    figures = {"generated_mean_right": float(own.mean())}
    kinds = {
        "animal": [{"name": name} for name in ANIMALS],
        "background": [
            {"pattern": p, "color": c} for p, c in itertools.product(PATTERNS, COLORS)
        ],
    }
    for kind, changes in kinds.items():
        wins, means, best = [], [], []
        for image, scene, score in zip(images, scenes, own, strict=True):
            others = [dataclasses.replace(scene, **change) for change in changes]
            others = [caption(s) for s in others if caption(s) != caption(scene)]
            wrong = similarities(clip, image[None], others)[0]
            wins.append(np.mean(score > wrong))
            best.append(np.all(score > wrong))
            means.append(wrong.mean())
        figures[f"generated_mean_wrong_{kind}"] = float(np.mean(means))
        figures[f"generated_{kind}"] = float(np.mean(best))
        figures[f"generated_right_beats_wrong_{kind}"] = float(np.mean(wins))
    return figures


def main() -> None:
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", type=pathlib.Path, default=here / "figures.json")
    args = parser.parse_args()
    sprites = Sprites(args.sprites)
    clip = draftx.rewards.load("tiny-clip")
    classifier: Any = draftx.rewards.load("tiny-classifier", options={"target": 0})

    scenes = held_out_scenes(sprites)
    images = draw_scenes(sprites, scenes).astype(np.float32) / 255
    asked = evaluation_scenes(sprites)
    key = jr.split(jr.key(0), 3)[0]
    drawn = sample(draftx.load("tiny"), asked, draftx.Sampling(30, 4.0), key=key)

    logits = jax.jit(lambda x: classifier.classifier(classifier.preprocess(x)))
    named = lambda x: np.argmax(np.asarray(logits(jnp.asarray(x))), axis=-1)
    animals = lambda scenes: np.asarray([attributes(scene)[0] for scene in scenes])
    figures = {
        "clip": {
            **retrieval(clip, images, [caption(scene) for scene in scenes]),
            **zero_shot(clip, images, scenes),
            **right_and_wrong(clip, drawn, asked),
        },
        "classifier": {
            "held_out": float(np.mean(named(images) == animals(scenes))),
            "generated": float(np.mean(named(drawn) == animals(asked))),
        },
    }
    figures = rounded(figures)
    print(json.dumps(figures, indent=2))
    for name, targets in TARGETS.items():
        for figure, target in targets.items():
            if figures[name][figure] < target:
                print(f"{name}: {figure} misses its target of {target}")
    add_figures(args.out, figures)


if __name__ == "__main__":
    main()
