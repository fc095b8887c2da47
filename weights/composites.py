"""Training pictures of the embedded tiny model: an animal sprite on a background.

A picture is a [`Scene`][], and its caption says everything about it but its jitter:
`a fox, 3d style, on a striped blue background`. Sprites get a white rim and a soft
shadow, so that a black ant stands out against black and a goose against white.

    python weights/composites.py --sprites weights/cache/sprites.npz --out sheet.png
"""

import argparse
import dataclasses
import functools
import math

import numpy as np


SIZE = 64  # pixels, of sprites and of pictures
STYLES = ("3d", "flat", "noto")
ANIMALS = tuple(
    """ant bat bear bee beetle bird butterfly camel cat chicken cow deer dog dolphin
    duck fish fly fox frog goat goose gorilla hedgehog horse kangaroo lion lizard llama
    monkey mouse pig rabbit raccoon rat shark sheep snake spider squirrel tiger turkey
    turtle whale wolf zebra""".split()
)
COLORS = {
    "red": (222, 44, 48),
    "orange": (250, 136, 24),
    "yellow": (252, 216, 52),
    "green": (52, 160, 64),
    "teal": (24, 170, 170),
    "blue": (44, 98, 216),
    "purple": (122, 60, 178),
    "pink": (250, 128, 184),
    "brown": (126, 78, 44),
    "gray": (134, 138, 144),
    "black": (22, 22, 28),
    "white": (248, 248, 250),
}
PATTERNS = ("plain", "gradient", "striped", "checkered", "dotted")
SPRITE_SIZES = range(40, 57)
JITTER = 4  # pixels either way, as far as the sprite stays inside the picture
PERIODS = {"striped": (10, 16), "checkered": (18, 28), "dotted": (12, 16)}

# Left out of the autoencoder's pictures.
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
# Drawn once, at random, of all that are not animals above.
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


@dataclasses.dataclass(frozen=True)
class Scene:
    """What one picture shows.

    `x` and `y` are where the sprite's center is. A gradient runs along `angle` (in
    degrees); stripes repeat along it. `period` is the pattern's, in pixels, and
    `phase_x`, `phase_y` shift it by fractions of a period.
    """

    name: str
    style: str
    pattern: str
    color: str
    sprite_index: int
    size: int = 48
    x: int = SIZE // 2
    y: int = SIZE // 2
    angle: int = 0
    period: float = 16.0
    phase_x: float = 0.0
    phase_y: float = 0.0


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


def draw_scenes(sprites, scenes):
    """Pictures of scenes: uint8, `scenes` × 64 × 64 × 3."""
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), np.float32)
    for pattern in PATTERNS:
        chosen = [i for i, scene in enumerate(scenes) if scene.pattern == pattern]
        if chosen:
            tones = [_TONES[scenes[i].color] for i in chosen]
            first, second = (
                np.stack(t)[:, None, None] for t in zip(*tones, strict=True)
            )
            mixing = _mixing([scenes[i] for i in chosen])[..., None]
            pictures[chosen] = first + mixing * (second - first)
    for picture, scene in zip(pictures, scenes, strict=True):
        sprite = sprites.scaled(scene.sprite_index, scene.size)
        top = scene.y - sprite.shape[0] // 2
        left = scene.x - sprite.shape[1] // 2
        # The part of the sprite that is inside the picture.
        sprite = sprite[max(-top, 0) : SIZE - top, max(-left, 0) : SIZE - left]
        top, left = max(top, 0), max(left, 0)
        region = picture[top : top + sprite.shape[0], left : left + sprite.shape[1]]
        sprite = sprite.astype(np.float32)
        region *= 1 - sprite[..., 3:] / 255
        region += sprite[..., :3]
    return np.round(pictures).astype(np.uint8)


def draw_scene(sprites, scene):
    """The picture of a scene: uint8, 64 × 64 × 3."""
    return draw_scenes(sprites, [scene])[0]


def random_scene(
    rng,
    sprites,
    *,
    animals=ANIMALS,
    styles=STYLES,
    patterns=PATTERNS,
    colors=tuple(COLORS),
    sprite_index=None,
):
    """A scene drawn uniformly from the choices, with its jitter.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `animals`, `styles`, `patterns`, `colors`: what to choose from.
    - `sprite_index`: draw this sprite, instead of an animal.
    """
    # One call of the generator: they are most of the time that a picture takes.
    u = rng.random(11).tolist()

    def choose(options, k):
        return options[int(u[k] * len(options))]

    pattern = choose(patterns, 2)
    if sprite_index is None:
        name, style = choose(animals, 0), choose(styles, 1)
        sprite_index = sprites.canonical[name, style]
    else:
        name, style = sprites.names[sprite_index], sprites.styles[sprite_index]
    size = choose(SPRITE_SIZES, 4)
    jitter = min(JITTER, (SIZE - size) // 2 - 1)
    shifts = range(-jitter, jitter + 1)
    shortest, longest = PERIODS.get(pattern, (16, 16))
    return Scene(
        name=name,
        style=style,
        pattern=pattern,
        color=choose(colors, 3),
        sprite_index=int(sprite_index),
        size=size,
        x=SIZE // 2 + choose(shifts, 5),
        y=SIZE // 2 + choose(shifts, 6),
        angle=45 * choose(range(8 if pattern == "gradient" else 4), 7),
        period=shortest + (longest - shortest) * u[8],
        phase_x=u[9],
        phase_y=u[10],
    )


def caption(scene, rng=None):
    """The caption of a scene: `a fox, 3d style, on a striped blue background`.

    **Arguments:**

    - `scene`: a [`Scene`][].
    - `rng`: a `numpy.random.Generator`, to leave out the style, the background, or the
        word "plain" at times; or `None`, to say everything.
    """
    style, background, plain = [1.0, 1.0, 1.0] if rng is None else rng.random(3)
    return phrase(
        scene, style=style >= 0.15, background=background >= 0.1, plain=plain >= 0.5
    )


def phrase(scene, *, animal=True, style=True, background=True, plain=True):
    """A caption that leaves out what it is told to.

    **Arguments:**

    - `scene`: a [`Scene`][].
    - `animal`: whether to say it. Without it there is no style either.
    - `style`, `background`: whether to say them.
    - `plain`: whether a background without a pattern is called plain.
    """
    pattern = "" if scene.pattern == "plain" and not plain else scene.pattern
    article = "an" if not pattern and scene.color[0] in "aeiou" else "a"
    behind = f"{article} {pattern + ' ' if pattern else ''}{scene.color} background"
    if not animal:
        return behind
    words = f"an {scene.name}" if scene.name[0] in "aeiou" else f"a {scene.name}"
    if style:
        words += f", {scene.style} style"
    if background:
        # Without a style there is no pause: "a fox on a red background".
        words += f"{', on' if style else ' on'} {behind}"
    return words


def attributes(scene):
    """Where animal, style, pattern and color are in their lists."""
    return (
        ANIMALS.index(scene.name),
        STYLES.index(scene.style),
        PATTERNS.index(scene.pattern),
        tuple(COLORS).index(scene.color),
    )


def is_held_out(scene):
    """Whether a scene is one of the tenth that no network is trained to name.

    Every animal, style, pattern and color is among the others, and so are all pairs of
    them; what is new is how they come together.
    """
    animal, style, pattern, color = attributes(scene)
    return (7 * animal + 3 * style + 5 * pattern + color) % 10 == 0


def named_scenes(rng, sprites, n, *, held_out=False, **choices):
    """Random scenes, of which `is_held_out` says `held_out`.

    **Arguments:** those of [`batch`][].
    """
    scenes = []
    while len(scenes) < n:
        scene = random_scene(rng, sprites, **choices)
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes


def batch(rng, sprites, n, **choices):
    """Pictures of animals with their captions.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `n`: how many.
    - `choices`: as for [`random_scene`][].

    **Returns:**

    Pictures (uint8, n × 64 × 64 × 3), a list of captions and a list of scenes.
    """
    scenes = [random_scene(rng, sprites, **choices) for _ in range(n)]
    captions = [caption(scene, rng) for scene in scenes]
    return draw_scenes(sprites, scenes), captions, scenes


def autoencoder_batch(rng, sprites, n, *, held_out=False):
    """Pictures of all sorts of things, for training the autoencoder.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `n`: how many.
    - `held_out`: whether to show the `HELD_OUT` things, instead of the others.

    **Returns:**

    Pictures (uint8, n × 64 × 64 × 3).
    """
    indices = sprites.held_out_indices if held_out else sprites.train_indices
    chosen = rng.choice(indices, n)
    scenes = [random_scene(rng, sprites, sprite_index=index) for index in chosen]
    return draw_scenes(sprites, scenes)


def _tile(pictures, num_columns, gap=2):
    num_rows = math.ceil(len(pictures) / num_columns)
    cell = SIZE + gap
    sheet = np.full((num_rows * cell, num_columns * cell, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // num_columns * cell, i % num_columns * cell
        sheet[top : top + SIZE, left : left + SIZE] = picture
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
    pictures = [*draw_scenes(sprites, scenes), *autoencoder_batch(rng, sprites, 45)]
    Image.fromarray(_tile(pictures, 15)).save(args.out)


if __name__ == "__main__":
    main()
