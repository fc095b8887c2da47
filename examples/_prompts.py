"""The prompts that the examples train on, and those they never see."""

import itertools


# The 45 animals of DDPO (arXiv 2305.13301), which DRaFT trains on as well.
ANIMALS = (
    *("ant", "bat", "bear", "bee", "beetle", "bird", "butterfly", "camel", "cat"),
    *("chicken", "cow", "deer", "dog", "dolphin", "duck", "fish", "fly", "fox"),
    *("frog", "goat", "goose", "gorilla", "hedgehog", "horse", "kangaroo", "lion"),
    *("lizard", "llama", "monkey", "mouse", "pig", "rabbit", "raccoon", "rat"),
    *("shark", "sheep", "snake", "spider", "squirrel", "tiger", "turkey", "turtle"),
    *("whale", "wolf", "zebra"),
)
_STYLES = ("3d", "flat", "noto")
_PATTERNS = ("striped", "checkered", "dotted", "gradient", "plain")
_COLORS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
# Every third animal is kept for testing.
_TEST_ANIMALS = ANIMALS[1::3]


def _prompt(animal: str, style: str, pattern: str, color: str) -> str:
    article = "an" if animal[0] in "aeiou" else "a"
    return f"{article} {animal}, {style} style, on a {pattern} {color} background"


TRAIN_PROMPTS = [
    _prompt(animal, style, pattern, color)
    for animal, style, pattern, color in itertools.product(
        (a for a in ANIMALS if a not in _TEST_ANIMALS), _STYLES, _PATTERNS, _COLORS
    )
]
# Each held-out animal in every style, patterns and colors going round.
HELD_OUT_PROMPTS = [
    _prompt(animal, style, _PATTERNS[(i + 2 * j) % 4], _COLORS[(3 * i + j) % 8])
    for j, style in enumerate(_STYLES)
    for i, animal in enumerate(_TEST_ANIMALS)
]
PAPER_PROMPTS = [animal for animal in ANIMALS]
