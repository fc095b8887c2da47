"""Sprites cut out for a background: with a rim and a shadow, in any size.

They get a white rim and a soft shadow, so that a black ant stands out against black and
a goose against white.
"""

import functools
import math

import numpy as np
from scenes import ANIMALS, SIZE, STYLES


# Left out of the autoencoder's images.
EXCLUDED_SUBGROUPS = ("place-religious",)
EXCLUDED_NAMES = frozenset(
    {
        "axe",
        "bomb",
        "bow and arrow",
        "cigarette",
        "coffin",
        "crossed swords",
        "dagger",
        "flag in hole",
        "funeral urn",
        "hamsa",
        "headstone",
        "kitchen knife",
        "love hotel",
        "military helmet",
        "nazar amulet",
        "pill",
        "prayer beads",
        "syringe",
        "water pistol",
        "wedding",
    }
)
# Drawn once, at random, of all that are not among `ANIMALS`.
HELD_OUT = frozenset(
    {
        "3rd place medal",
        "accordion",
        "aerial tramway",
        "alien monster",
        "anger symbol",
        "artist palette",
        "avocado",
        "badger",
        "beverage box",
        "black nib",
        "bookmark",
        "camera",
        "clipboard",
        "cloud",
        "doughnut",
        "downcast face with sweat",
        "dvd",
        "face savoring food",
        "face with diagonal mouth",
        "gloves",
        "grinning cat with smiling eyes",
        "hear-no-evil monkey",
        "keyboard",
        "kissing face with closed eyes",
        "kissing face with smiling eyes",
        "love letter",
        "mammoth",
        "martial arts uniform",
        "mushroom",
        "notebook with decorative cover",
        "oil drum",
        "oncoming taxi",
        "open file folder",
        "party popper",
        "paw prints",
        "pig nose",
        "purse",
        "red apple",
        "running shirt",
        "sewing needle",
        "shorts",
        "slightly frowning face",
        "soccer ball",
        "spaghetti",
        "spiral calendar",
        "sun behind large cloud",
        "telephone receiver",
        "triangular ruler",
        "window",
        "yo-yo",
    }
)

_MARGIN = 8  # around a sprite, for its rim and shadow; in the sprite's pixels
_RIM = 2.4
_SHADOW = 0.45


class Sprites:
    """The sprites of a `.npz` file, cut out and scaled when first asked for."""

    def __init__(self, path):
        with np.load(path) as file:
            used = np.isin(file["style"], STYLES)
            columns = ("images", "name", "style", "subgroup", "ddpo_class")
            columns = {column: file[column][used] for column in columns}
        self.images = columns["images"]
        self.names = columns["name"].tolist()
        self.styles = columns["style"].tolist()
        # The first sprite of a class in the file, which has faces before whole bodies.
        self.canonical = {}
        for index, animal in enumerate(columns["ddpo_class"].tolist()):
            if animal:
                self.canonical.setdefault((animal, self.styles[index]), index)
        wanted = {(animal, style) for animal in ANIMALS for style in STYLES}
        if missing := wanted - self.canonical.keys():
            raise ValueError(f"`path` must have all animals; lacks {sorted(missing)}.")
        excluded = np.isin(columns["name"], sorted(EXCLUDED_NAMES))
        excluded |= np.isin(columns["subgroup"], EXCLUDED_SUBGROUPS)
        held_out = np.isin(columns["name"], sorted(HELD_OUT))
        self.train_indices = np.flatnonzero(~excluded & ~held_out)
        self.held_out_indices = np.flatnonzero(held_out)
        self._kept = set(self.canonical.values())
        self._outlined = {}
        self._scaled = {}

    def scaled(self, index, size):
        """Sprite `index` with its rim and shadow, `size` pixels wide without them.

        **Returns:**

        Premultiplied color and opacity, uint8, in a square `size + size // 4` wide.
        """
        if (index, size) in self._scaled:
            return self._scaled[index, size]
        if index not in self._outlined:
            self._outlined[index] = _outline(self.images[index])
        matrix = _resampling(size)
        image = self._outlined[index]
        for _ in range(2):  # down the columns, then along the rows
            image = matrix @ image.reshape(matrix.shape[1], -1)
            image = image.reshape(matrix.shape[0], -1, 4).swapaxes(0, 1)
        image = np.clip(image, 0.0, 1.0)
        image[..., :3] = np.minimum(image[..., :3], image[..., 3:])
        image = np.round(255 * image).astype(np.uint8)
        # Only the animals are drawn often enough for keeping all of their sizes.
        if index in self._kept:
            self._scaled[index, size] = image
        return image


def _shift(image, rows, columns):
    return np.roll(image, (rows, columns), axis=(0, 1))


def _outline(image):
    """Premultiplied float32 sprite over a white rim over a soft shadow."""
    image = np.pad(image, ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0)))
    image = image.astype(np.float32) / 255
    alpha = image[..., 3:]
    reach = range(-math.ceil(_RIM), math.ceil(_RIM) + 1)
    rim = alpha
    for rows in reach:
        for columns in reach:
            weight = min(max(_RIM + 0.5 - math.hypot(rows, columns), 0.0), 1.0)
            if weight > 0:
                rim = np.maximum(rim, weight * _shift(alpha, rows, columns))
    shadow = rim
    for _ in range(3):
        for axis in (0, 1):
            shadow = (np.roll(shadow, 1, axis) + shadow + np.roll(shadow, -1, axis)) / 3
    shadow = _SHADOW * _shift(shadow, 1, 0)
    color = image[..., :3] * alpha + (1 - alpha) * rim
    opacity = rim + (1 - rim) * shadow  # the shadow is black: it adds no color
    return np.concatenate([color, opacity], axis=-1)


@functools.lru_cache(maxsize=64)
def _resampling(size):
    """Weights that scale an outlined sprite; an antialiased cubic, about the center."""
    scale = size / SIZE
    source = SIZE + 2 * _MARGIN
    target = size + size // 4
    center = (np.arange(target) + 0.5 - target / 2) / scale + source / 2
    distance = np.abs(np.arange(source) + 0.5 - center[:, None]) * min(scale, 1.0)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    # Outside the source there is nothing: rows at the border sum to less than one.
    return (weights * min(scale, 1.0)).astype(np.float32)
