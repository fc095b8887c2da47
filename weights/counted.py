"""Scenes with several of one animal: `three foxes, flat style, on a blue background`.

python weights/counted.py --sprites weights/cache/sprites.npz --out sheet.png
"""

import argparse
import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from composites import draw_scenes, tile
from cutouts import Sprites
from scenes import (
    ANIMALS,
    is_held_out,
    NUMBERS,
    phrase,
    random_scene,
    SIZE,
    SPRITE_SIZES,
)


# How wide the sprites of a scene with so many of them are, in pixels. A generator is
# taught those up to four; what counts has to know when there are more.
COUNTED_SIZES = {
    1: SPRITE_SIZES,
    2: range(26, 32),
    3: range(24, 30),
    4: range(23, 29),
    5: range(17, 22),
    6: range(16, 21),
}
GENERATED_COUNTS = (2, 3, 4)
MOST = max(COUNTED_SIZES)
# Of scenes with several, those whose captions leave the number open: "foxes".
OPEN_SHARE = 0.25
# Of scenes with one, those whose captions say so in a word: "one fox".
ONE_SHARE = 0.15

_JITTER = 2  # pixels either way, of each sprite by itself
# Some arrangements for each count: centers, in pixels from the middle of the image.
_ARRANGEMENTS = {
    2: [
        ((-16, 0), (16, 0)),
        ((0, -16), (0, 16)),
        ((-15, -13), (15, 13)),
        ((15, -13), (-15, 13)),
    ],
    3: [
        ((0, -15), (-16, 14), (16, 14)),
        ((-16, -14), (16, -14), (0, 15)),
    ],
    4: [((-16, -16), (16, -16), (-16, 16), (16, 16))],
    5: [((-20, -20), (20, -20), (0, 0), (-20, 20), (20, 20))],
    6: [((-21, -14), (0, -14), (21, -14), (-21, 14), (0, 14), (21, 14))],
}
CELLS = 8  # in a row of a density
# How far an animal's density spreads around its center, in cells.
_SPREAD = 0.7
# Squared error of the number, beside that of the cells.
_NUMBER_WEIGHT = 0.05
# How often a network that counts sees no animal, one, and so on up to `MOST`.
_SEEN = (0.06, 0.22, 0.18, 0.18, 0.18, 0.1, 0.08)
# Sprites that are strewn come no nearer than this, of their width.
_NEAREST = 0.9
_TRIES = 60


def random_counted_scene(rng, sprites, count, *, strewn=False, **choices):
    """A scene with `count` of one animal.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `count`: from 0, which is a background alone, to `MOST`.
    - `strewn`: whether they may be anywhere, and smaller; or else in one of a few
        arrangements, each a little out of its place.
    - `choices`: as for [`random_scene`][].
    """
    if not 0 <= count <= MOST:
        raise ValueError(f"`count` must be from 0 to {MOST}; got {count}.")
    scene = random_scene(rng, sprites, **choices)
    if count == 0:
        return dataclasses.replace(scene, size=0)
    if count == 1 and not strewn:
        return scene
    if strewn:
        size, centers = _strew(rng, count)
    else:
        size = int(rng.choice(COUNTED_SIZES[count]))
        arrangements = _ARRANGEMENTS[count]
        arrangement = arrangements[rng.integers(len(arrangements))]
        moved = np.asarray(arrangement) + SIZE // 2
        moved = moved + rng.integers(-_JITTER, _JITTER + 1, moved.shape)
        # As far as they stay inside the image.
        centers = np.clip(moved, size // 2 + 1, SIZE - size // 2 - 1).tolist()
    first, *others = (tuple(center) for center in centers)
    return dataclasses.replace(
        scene, size=size, x=first[0], y=first[1], others=tuple(others)
    )


def _strew(rng, count):
    """A width of sprites, and centers that are not too near to one another."""
    size = int(rng.integers(16, COUNTED_SIZES[count].stop))
    while True:
        inside = (size // 2 + 1, SIZE - size // 2)
        centers: list[list[int]] = []
        for _ in range(_TRIES):
            center = rng.integers(*inside, 2).tolist()
            if all(math.dist(center, c) >= _NEAREST * size for c in centers):
                centers.append(center)
            if len(centers) == count:
                return size, centers
        size = max(16, size - 1)  # There was no room.


def counted_caption(scene, rng=None):
    """The caption of a scene, with its number.

    **Arguments:**

    - `scene`: a [`Scene`][].
    - `rng`: a `numpy.random.Generator`, to leave out at times what [`caption`][] leaves
        out, or the number, and to say "one" at times; or `None`, to say everything.
    """
    style, background, plain, number = np.ones(4) if rng is None else rng.random(4)
    words = phrase(
        scene,
        style=style >= 0.15,
        background=background >= 0.1,
        plain=plain >= 0.5,
        number=number >= OPEN_SHARE,
    )
    if len(scene.centers) == 1 and number < ONE_SHARE:
        return f"{NUMBERS[1]} {words.split(' ', 1)[1]}"
    return words


def counted_batch(rng, sprites, n, *, share, **choices):
    """Images with one or several of an animal, with their captions.

    **Arguments:**

    - `rng`, `sprites`, `n`, `choices`: as for [`batch`][].
    - `share`: how many of them show several: two, three or four, equally often.

    **Returns:**

    As of [`batch`][].
    """
    several = rng.random(n) < share
    counts = np.where(several, rng.choice(GENERATED_COUNTS, n), 1).tolist()
    scenes = [random_counted_scene(rng, sprites, count, **choices) for count in counts]
    captions = [counted_caption(scene, rng) for scene in scenes]
    return draw_scenes(sprites, scenes), captions, scenes


def scenes_to_count(rng, sprites, n, *, held_out=False):
    """Scenes for a network that counts: none to `MOST`, half of them strewn.

    **Arguments:**

    - `rng`, `sprites`, `n`, `held_out`: as for [`named_scenes`][].
    """
    scenes = []
    while len(scenes) < n:
        count = int(rng.choice(MOST + 1, p=_SEEN))
        scene = random_counted_scene(rng, sprites, count, strewn=rng.random() < 0.5)
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes


def densities(scenes):
    """Where the animals of scenes are: `scenes` × 8 × 8, with sums of how many."""
    centers = (np.arange(CELLS, dtype=np.float32) + 0.5) * SIZE / CELLS

    def bump(position):
        squared = ((centers - position) * CELLS / SIZE / _SPREAD) ** 2
        weights = np.exp(-0.5 * squared)
        return weights / weights.sum()

    out = np.zeros((len(scenes), CELLS, CELLS), np.float32)
    for density, scene in zip(out, scenes, strict=True):
        for x, y in scene.centers:
            density += bump(y)[:, None] * bump(x)
    return out


def density_loss(density, wanted):
    """Squared errors of densities and of their sums, and the error of each sum."""
    error = jnp.sum(density - wanted, axis=(1, 2))
    cells = jnp.mean(jnp.sum((density - wanted) ** 2, axis=(1, 2)))
    return cells + _NUMBER_WEIGHT * jnp.mean(error**2), error


def main():
    """Draw a contact sheet: all animals, two to four of them; then strewn ones."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sprites", required=True, help="a file of sprites, .npz")
    parser.add_argument("--out", required=True, help="where to write the sheet, .png")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sprites = Sprites(args.sprites)
    rng = np.random.default_rng(args.seed)
    scenes = [
        random_counted_scene(rng, sprites, count, animals=(animal,))
        for count in GENERATED_COUNTS
        for animal in ANIMALS
    ]
    scenes += [
        random_counted_scene(rng, sprites, 1 + i % MOST, strewn=True) for i in range(45)
    ]
    Image.fromarray(tile(draw_scenes(sprites, scenes), 15)).save(args.out)


if __name__ == "__main__":
    main()
