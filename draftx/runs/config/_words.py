"""Words that come with the package, to make prompts of."""

from typing import Final


# Of DDPO (arXiv 2305.13301), appendix; DRaFT trains on them as well.
ANIMALS: Final = (
    *("ant", "bat", "bear", "bee", "beetle", "bird", "butterfly", "camel", "cat"),
    *("chicken", "cow", "deer", "dog", "dolphin", "duck", "fish", "fly", "fox"),
    *("frog", "goat", "goose", "gorilla", "hedgehog", "horse", "kangaroo", "lion"),
    *("lizard", "llama", "monkey", "mouse", "pig", "rabbit", "raccoon", "rat"),
    *("shark", "sheep", "snake", "spider", "squirrel", "tiger", "turkey", "turtle"),
    *("whale", "wolf", "zebra"),
)
WORD_LISTS: Final = {"animals": ANIMALS}
