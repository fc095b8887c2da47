"""Measures a pipeline on fixed prompts: writes `figures.json` and sheets of samples.

    python weights/evaluate.py --sprites weights/cache/sprites.npz

Prompts are those of `evaluation_scenes`: every animal in every style. What an image
shows is judged by [`judge`][], whose own mistakes are among the figures.
"""

import argparse
import itertools
import json
import math
import pathlib
from typing import Any

import jax
import jax.random as jr
import numpy as np
from composites import autoencoder_batch, draw_scenes
from cutouts import Sprites
from judge import HEADS, load_judge, PATH, predict, scene_labels
from PIL import Image, ImageDraw, ImageFont
from scenes import ANIMALS, caption, COLORS, PATTERNS, random_scene, Scene, SIZE, STYLES
from train_vae import reconstruction_psnr

import draftx


BATCH_SIZE = 45
# Of the evaluation scenes: every animal once, in the styles by turns.
SUBSET = [len(STYLES) * i + i % len(STYLES) for i in range(len(ANIMALS))]
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 7.5)
NUM_DIVERSE_PROMPTS, NUM_SEEDS = 12, 4


def draw_again(rng, sprites, scene: Scene) -> Scene:
    """A scene with the same caption, placed anew."""
    return random_scene(
        rng,
        sprites,
        animals=(scene.name,),
        styles=(scene.style,),
        patterns=(scene.pattern,),
        colors=(scene.color,),
    )


def evaluation_scenes(sprites: Sprites) -> list[Scene]:
    """Every animal in every style; patterns and colors as evenly as they go.

    That holds for the `SUBSET` of them, too.
    """
    rng = np.random.default_rng(0)
    order = [rng.permutation(len(ANIMALS)) for _ in STYLES]
    scenes = []
    for (i, animal), (j, style) in itertools.product(
        enumerate(ANIMALS), enumerate(STYLES)
    ):
        turn = (j - i) % len(STYLES)  # 0 in the subset
        k = turn * len(ANIMALS) + order[turn][i]
        # There are 5 patterns and 12 colors: 60 values of `k` in a row meet all pairs.
        pattern, color = PATTERNS[k % len(PATTERNS)], tuple(COLORS)[k % len(COLORS)]
        scene = Scene(animal, style, pattern, color, sprite_index=-1)
        scenes.append(draw_again(rng, sprites, scene))
    return scenes


def sample(pipeline, scenes, sampling, *, key) -> np.ndarray:
    """An image for the caption of each scene, in equal batches."""
    num_batches = math.ceil(len(scenes) / BATCH_SIZE)
    if len(scenes) % num_batches != 0:
        raise ValueError(
            f"`scenes` must split into {num_batches} equal batches, each of at most "
            f"{BATCH_SIZE}; got {len(scenes)} scenes."
        )
    prompts = np.asarray([caption(scene) for scene in scenes])
    images = [
        draftx.sample(pipeline, part.tolist(), sampling, key=part_key)
        for part, part_key in zip(
            np.split(prompts, num_batches), jr.split(key, num_batches), strict=True
        )
    ]
    return np.concatenate(images)


def accuracy(judge, images, scenes) -> dict:
    """How often each head agrees with the caption, and all of them together."""
    right = predict(judge, images) == scene_labels(scenes)
    figures = dict(zip(HEADS, right.mean(0).tolist(), strict=True))
    figures["all"] = right.all(1).mean().item()
    styles = np.asarray([scene.style for scene in scenes])
    figures["animal_by_style"] = {
        style: right[styles == style, 0].mean().item()
        for style in STYLES
        if style in styles
    }
    return figures


def diversity(images) -> float:
    """The mean root-mean-square distance of images of the same prompt.

    **Arguments:**

    - `images`: Prompts × seeds × height × width × 3.
    """
    pairs = itertools.combinations(range(images.shape[1]), 2)
    squares = [np.mean((images[:, i] - images[:, j]) ** 2, (1, 2, 3)) for i, j in pairs]
    return float(np.mean(np.sqrt(squares)))


def contact_sheet(images, scenes, wrong, *, num_columns: int = 9) -> Image.Image:
    """Images at twice their size, with their captions.

    **Arguments:**

    - `images`: In $[0, 1]$, 64 × 64.
    - `wrong`: Scenes × heads: what the judge contradicts is written in red.
    """
    size, gap, text_height = 2 * SIZE, 12, 34
    width, height = size + gap, size + text_height + gap
    num_rows = math.ceil(len(images) / num_columns)
    sheet = (num_columns * width + gap, num_rows * height + gap)
    sheet = Image.new("RGB", sheet, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for k, (image, scene) in enumerate(zip(images, scenes, strict=True)):
        top, left = (k // num_columns) * height + gap, (k % num_columns) * width + gap
        large = Image.fromarray(np.round(255 * np.asarray(image)).astype(np.uint8))
        sheet.paste(large.resize((size, size), Image.Resampling.NEAREST), (left, top))
        animal, style, color, pattern = wrong[k]
        lines = (
            ((f"{scene.name}, ", animal), (scene.style, style)),
            ((f"{scene.pattern} ", pattern), (scene.color, color)),
        )
        for i, line in enumerate(lines):
            x = left + (size - sum(font.getlength(word) for word, _ in line)) / 2
            for word, is_wrong in line:
                fill = (208, 32, 32) if is_wrong else (72, 72, 80)
                draw.text((x, top + size + 3 + 15 * i), word, fill, font)
                x += font.getlength(word)
    return sheet


def rounded(figures: Any) -> Any:
    """Floats to four digits, in nested dictionaries."""
    if isinstance(figures, dict):
        return {name: rounded(value) for name, value in figures.items()}
    return round(figures, 4) if isinstance(figures, float) else figures


def add_figures(path: pathlib.Path, figures: dict) -> None:
    """Writes figures into a file, beside what else was measured."""
    everything = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(everything | figures, indent=2) + "\n")


def main() -> None:
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--pipeline", default="tiny")
    parser.add_argument("--judge", type=pathlib.Path, default=PATH)
    parser.add_argument("--out", type=pathlib.Path, default=here)
    parser.add_argument("--num-inference-steps", type=int, default=30)
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pipeline, judge = draftx.load(args.pipeline), load_judge(args.judge)
    sprites = Sprites(args.sprites)
    scenes = evaluation_scenes(sprites)
    subset = [scenes[i] for i in SUBSET]
    keys = jr.split(jr.key(args.seed), 3)
    sampling = draftx.Sampling(args.num_inference_steps, args.guidance_scale)
    names = ("num_inference_steps", "guidance_scale", "seed")
    figures: dict = {"options": {name: getattr(args, name) for name in names}}

    held_out = autoencoder_batch(np.random.default_rng(0), sprites, 256, held_out=True)
    figures["held_out_psnr"] = reconstruction_psnr(pipeline.vae, held_out)

    # What the judge says of training images, and of their reconstructions, is
    # the most that can be expected of generated ones.
    rng = np.random.default_rng(1)
    again = [draw_again(rng, sprites, scene) for scene in scenes]
    real = draw_scenes(sprites, again).astype(np.float32) / 255
    roundtrip = jax.jit(lambda x: pipeline.vae.decode(pipeline.vae.encode(x)))
    parts = np.split(real, len(real) // BATCH_SIZE)
    reconstructed = np.concatenate([roundtrip(part) for part in parts])
    generated = sample(pipeline, scenes, sampling, key=keys[0])
    figures["accuracy"] = {
        "real": accuracy(judge, real, scenes),
        "reconstructed": accuracy(judge, reconstructed, scenes),
        "generated": accuracy(judge, generated, scenes),
    }

    figures["accuracy_by_guidance_scale"] = {
        str(scale): accuracy(
            judge,
            sample(
                pipeline,
                subset,
                draftx.Sampling(args.num_inference_steps, scale),
                key=keys[1],
            ),
            subset,
        )
        for scale in GUIDANCE_SCALES
    }

    several = [
        scene for scene in subset[:NUM_DIVERSE_PROMPTS] for _ in range(NUM_SEEDS)
    ]
    again = [draw_again(rng, sprites, scene) for scene in several]
    images = {
        "real": draw_scenes(sprites, again).astype(np.float32) / 255,
        "generated": sample(pipeline, several, sampling, key=keys[2]),
    }
    figures["diversity"] = {
        kind: diversity(x.reshape(-1, NUM_SEEDS, *x.shape[1:]))
        for kind, x in images.items()
    }

    figures = rounded(figures)
    print(json.dumps(figures, indent=2))
    add_figures(args.out / "figures.json", figures)
    wrong = predict(judge, generated) != scene_labels(scenes)
    sheet = contact_sheet(generated[SUBSET], subset, wrong[SUBSET])
    sheet.save(args.out / "samples.png")


if __name__ == "__main__":
    main()
