"""The prompts that the examples train on, and those they never see."""

import itertools
from collections.abc import Sequence

from draftx.runs import ANIMALS


STYLES = ("3d", "flat", "noto")
_PATTERNS = ("striped", "checkered", "dotted", "gradient", "plain")
_COLORS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
# Every third animal is kept for testing.
_TEST_ANIMALS = ANIMALS[1::3]
_TRAIN_ANIMALS = tuple(animal for animal in ANIMALS if animal not in _TEST_ANIMALS)


def _in_style(animal: str, style: str) -> str:
    return f"{'an' if animal[0] in 'aeiou' else 'a'} {animal}, {style} style"


def _prompt(animal: str, style: str, pattern: str, color: str) -> str:
    return f"{_in_style(animal, style)}, on a {pattern} {color} background"


def animal_of(prompt: str) -> str:
    """The animal that a prompt of the embedded model asks for."""
    return prompt.split(",")[0].split()[-1]


def scenes(animals: Sequence[str], colors: Sequence[str] = _COLORS) -> list[str]:
    """Animals in all styles, on all patterns."""
    choices = itertools.product(animals, STYLES, _PATTERNS, colors)
    return [_prompt(*choice) for choice in choices]


def without_background(animals: Sequence[str]) -> list[str]:
    """Animals in all styles, and whatever background the model likes."""
    return [_in_style(*choice) for choice in itertools.product(animals, STYLES)]


TRAIN_PROMPTS = scenes(_TRAIN_ANIMALS)
# Each held-out animal in every style, patterns and colors going round.
HELD_OUT_PROMPTS = [
    _prompt(animal, style, _PATTERNS[(i + 2 * j) % 4], _COLORS[(3 * i + j) % 8])
    for j, style in enumerate(STYLES)
    for i, animal in enumerate(_TEST_ANIMALS)
]
PLAIN_TRAIN_PROMPTS = without_background(_TRAIN_ANIMALS)
PLAIN_HELD_OUT_PROMPTS = without_background(_TEST_ANIMALS)
PAPER_PROMPTS = [animal for animal in ANIMALS]
