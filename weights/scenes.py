"""What an image of the embedded tiny model can show, and how it is said.

An image is a [`Scene`][], and its caption says everything about it but its jitter:
`a fox, 3d style, on a striped blue background`.
"""

import dataclasses


SIZE = 64  # pixels, of sprites and of images
STYLES = ("3d", "flat", "noto")
ANIMALS = tuple(
    """ant bat bear bee beetle bird butterfly camel cat chicken cow deer dog dolphin
    duck fish fly fox frog goat goose gorilla hedgehog horse kangaroo lion lizard llama
    monkey mouse pig rabbit raccoon rat shark sheep snake spider squirrel tiger turkey
    turtle whale wolf zebra""".split()
)
# Those that do not just get an s.
PLURALS = {
    "butterfly": "butterflies",
    "deer": "deer",
    "fish": "fish",
    "fly": "flies",
    "fox": "foxes",
    "goose": "geese",
    "mouse": "mice",
    "sheep": "sheep",
    "wolf": "wolves",
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
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
JITTER = 4  # pixels either way, as far as the sprite stays inside the image
PERIODS = {"striped": (10, 16), "checkered": (18, 28), "dotted": (12, 16)}


@dataclasses.dataclass(frozen=True)
class Scene:
    """What one image shows.

    `x` and `y` are where the sprite's center is, `others` where those of more of the
    same animal are, if there are any; with a `size` of 0 there is none. A gradient runs
    along `angle` (in degrees); stripes repeat along it. `period` is the pattern's, in
    pixels, and `phase_x`, `phase_y` shift it by fractions of a period.
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
    others: tuple[tuple[int, int], ...] = ()

    @property
    def centers(self) -> tuple[tuple[int, int], ...]:
        """Where each of the sprites is."""
        return ((self.x, self.y), *self.others) if self.size else ()


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
    # One call of the generator: they are most of the time that an image takes.
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


def noun(scene, *, number=True):
    """What a scene shows: `a fox`, `three foxes`; or `foxes`, without a number."""
    count = len(scene.centers)
    if count == 1:
        return f"an {scene.name}" if scene.name[0] in "aeiou" else f"a {scene.name}"
    several = PLURALS.get(scene.name, f"{scene.name}s")
    return f"{NUMBERS[count]} {several}" if number else several


def phrase(scene, *, animal=True, style=True, background=True, plain=True, number=True):
    """A caption that leaves out what it is told to.

    **Arguments:**

    - `scene`: a [`Scene`][].
    - `animal`: whether to say it. Without it there is no style either.
    - `style`, `background`: whether to say them.
    - `plain`: whether a background without a pattern is called plain.
    - `number`: whether to say how many there are, where there are several.
    """
    pattern = "" if scene.pattern == "plain" and not plain else scene.pattern
    article = "an" if not pattern and scene.color[0] in "aeiou" else "a"
    behind = f"{article} {pattern + ' ' if pattern else ''}{scene.color} background"
    if not animal:
        return behind
    words = noun(scene, number=number)
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

    **Arguments:**

    - `rng`, `sprites`, `choices`: as for [`random_scene`][].
    - `n`: how many.
    - `held_out`: what to have of them all.
    """
    scenes = []
    while len(scenes) < n:
        scene = random_scene(rng, sprites, **choices)
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes
