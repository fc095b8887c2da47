"""What the embedded model can draw, as prompts: to train on, and never to be seen."""

import itertools
from collections.abc import Sequence
from typing import Final

from ._words import ANIMALS


STYLES: Final = ("3d", "flat", "noto")
_PATTERNS = ("striped", "checkered", "dotted", "gradient", "plain")
_COLORS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
# Every third animal is kept for testing.
HELD_OUT_ANIMALS: Final = ANIMALS[1::3]
TRAIN_ANIMALS: Final = tuple(a for a in ANIMALS if a not in HELD_OUT_ANIMALS)


def in_style(animal: str, style: str) -> str:
    """Writes the prompt for an `animal` in a `style`, on any background."""
    return f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}, {style} style"


def _scene(animal: str, style: str, pattern: str, color: str) -> str:
    return f"{in_style(animal, style)}, on a {pattern} {color} background"


def animal_of(prompt: str) -> str:
    """Finds the animal that a `prompt` of the embedded model asks for."""
    return prompt.split(",")[0].split()[-1]


def scenes(animals: Sequence[str], colors: Sequence[str] = _COLORS) -> list[str]:
    """Writes prompts for `animals` in all styles, on all patterns in these `colors`."""
    choices = itertools.product(animals, STYLES, _PATTERNS, colors)
    return [_scene(*choice) for choice in choices]


def train_scenes() -> list[str]:
    """Writes the prompts to train the embedded model on: 30 of the 45 animals."""
    return scenes(TRAIN_ANIMALS)


def held_out_scenes() -> list[str]:
    """Writes 45 prompts of the other 15 animals, patterns and colors going round."""
    return [
        _scene(animal, style, _PATTERNS[(i + 2 * j) % 4], _COLORS[(3 * i + j) % 8])
        for j, style in enumerate(STYLES)
        for i, animal in enumerate(HELD_OUT_ANIMALS)
    ]
