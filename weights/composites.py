"""Training images of the embedded tiny model: an animal sprite on a background.

python weights/composites.py --sprites weights/cache/sprites.npz --out sheet.png
"""

import argparse
import math

import numpy as np
from cutouts import Sprites
from scenes import ANIMALS, caption, COLORS, PATTERNS, random_scene, SIZE, STYLES


def second_tone(color):
    """The other color of a pattern: a much lighter one, or a darker one of the light.

    **Arguments:**

    - `color`: one of `COLORS`.

    **Returns:**

    Three floats in [0, 255].
    """
    rgb = np.asarray(COLORS[color], np.float32)
    luminance = float(rgb @ np.asarray([0.299, 0.587, 0.114], np.float32))
    return 0.7 * rgb if luminance > 190 else 0.35 * rgb + 0.65 * 255


_TONES = {
    color: (np.asarray(rgb, np.float32), second_tone(color).astype(np.float32))
    for color, rgb in COLORS.items()
}
_GRID = np.arange(SIZE, dtype=np.float32) + 0.5


def _square_wave(position, period):
    """An antialiased square wave in [-1, 1] of positions in periods."""
    distance = np.abs(position - np.floor(position) - 0.5) - 0.25
    return np.clip(2 * distance * period, -1, 1)


def _mixing(scenes):
    """How much of the second tone each pixel has: floats, `scenes` × 64 × 64."""

    def column(name, dtype=np.float32):
        values = [getattr(scene, name) for scene in scenes]
        return np.asarray(values, dtype)[:, None, None]

    x, y = _GRID[None, None, :], _GRID[None, :, None]
    pattern = scenes[0].pattern
    angle = np.deg2rad(column("angle"))
    period = column("period")
    phase_x, phase_y = column("phase_x"), column("phase_y")
    if pattern == "plain":
        return np.zeros((len(scenes), SIZE, SIZE), np.float32)
    if pattern == "gradient":
        cos, sin = np.cos(angle), np.sin(angle)
        along = (x - SIZE / 2) * cos + (y - SIZE / 2) * sin
        return along / (SIZE * (np.abs(cos) + np.abs(sin))) + 0.5
    if pattern == "striped":
        along = x * np.cos(angle) + y * np.sin(angle)
        return 0.5 + 0.5 * _square_wave(along / period + phase_x, period)
    across, down = x / period + phase_x, y / period + phase_y
    if pattern == "checkered":
        product = _square_wave(across, period) * _square_wave(down, period)
        return 0.5 + 0.5 * product
    if pattern == "dotted":
        across, down = across - np.floor(across) - 0.5, down - np.floor(down) - 0.5
        distance = period * np.sqrt(across**2 + down**2)
        return np.clip(0.3 * period - distance + 0.5, 0, 1)
    raise ValueError(f"`pattern` must be one of {PATTERNS}; got {pattern!r}.")


def _paste(image, sprite, x, y):
    """Draws a sprite into an image, in place, with its center at `x`, `y`."""
    top, left = y - sprite.shape[0] // 2, x - sprite.shape[1] // 2
    # The part of the sprite that is inside the image.
    sprite = sprite[max(-top, 0) : SIZE - top, max(-left, 0) : SIZE - left]
    top, left = max(top, 0), max(left, 0)
    region = image[top : top + sprite.shape[0], left : left + sprite.shape[1]]
    sprite = sprite.astype(np.float32)
    region *= 1 - sprite[..., 3:] / 255
    region += sprite[..., :3]


def draw_scenes(sprites, scenes):
    """Images of scenes: uint8, `scenes` × 64 × 64 × 3."""
    images = np.empty((len(scenes), SIZE, SIZE, 3), np.float32)
    for pattern in PATTERNS:
        chosen = [i for i, scene in enumerate(scenes) if scene.pattern == pattern]
        if chosen:
            tones = [_TONES[scenes[i].color] for i in chosen]
            first, second = (
                np.stack(t)[:, None, None] for t in zip(*tones, strict=True)
            )
            mixing = _mixing([scenes[i] for i in chosen])[..., None]
            images[chosen] = first + mixing * (second - first)
    for image, scene in zip(images, scenes, strict=True):
        # What stands lower is nearer, and in front.
        for x, y in sorted(scene.centers, key=lambda center: center[1]):
            _paste(image, sprites.scaled(scene.sprite_index, scene.size), x, y)
    return np.round(images).astype(np.uint8)


def batch(rng, sprites, n, **choices):
    """Images of animals with their captions.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `n`: how many.
    - `choices`: as for [`random_scene`][].

    **Returns:**

    Images (uint8, n × 64 × 64 × 3), a list of captions and a list of scenes.
    """
    scenes = [random_scene(rng, sprites, **choices) for _ in range(n)]
    captions = [caption(scene, rng) for scene in scenes]
    return draw_scenes(sprites, scenes), captions, scenes


def autoencoder_batch(rng, sprites, n, *, held_out=False):
    """Images of all sorts of things, for training the autoencoder.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `n`: how many.
    - `held_out`: whether to show the `HELD_OUT` things, instead of the others.

    **Returns:**

    Images (uint8, n × 64 × 64 × 3).
    """
    indices = sprites.held_out_indices if held_out else sprites.train_indices
    chosen = rng.choice(indices, n)
    scenes = [random_scene(rng, sprites, sprite_index=index) for index in chosen]
    return draw_scenes(sprites, scenes)


def tile(images, num_columns, gap=2):
    num_rows = math.ceil(len(images) / num_columns)
    cell = SIZE + gap
    sheet = np.full((num_rows * cell, num_columns * cell, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // num_columns * cell, i % num_columns * cell
        sheet[top : top + SIZE, left : left + SIZE] = image
    return sheet


def main():
    """Draw a contact sheet: all animals, then things for the autoencoder."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sprites", required=True, help="a file of sprites, .npz")
    parser.add_argument("--out", required=True, help="where to write the sheet, .png")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sprites = Sprites(args.sprites)
    rng = np.random.default_rng(args.seed)
    scenes = [
        random_scene(rng, sprites, animals=(animal,), styles=(style,))
        for first in range(0, len(ANIMALS), 15)
        for style in STYLES
        for animal in ANIMALS[first : first + 15]
    ]
    images = [*draw_scenes(sprites, scenes), *autoencoder_batch(rng, sprites, 45)]
    Image.fromarray(tile(images, 15)).save(args.out)


if __name__ == "__main__":
    main()
