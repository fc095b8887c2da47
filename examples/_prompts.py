"""The prompts that the examples train on, and those they never see."""

import itertools

from draftx.runs import (
    animal_of as animal_of,
    ANIMALS,
    HELD_OUT_ANIMALS,
    held_out_scenes,
    in_style,
    scenes as scenes,
    STYLES,
    TRAIN_ANIMALS,
    train_scenes,
)


TRAIN_PROMPTS = train_scenes()
HELD_OUT_PROMPTS = held_out_scenes()
# Whatever background the model likes.
PLAIN_TRAIN_PROMPTS = [
    in_style(*choice) for choice in itertools.product(TRAIN_ANIMALS, STYLES)
]
PLAIN_HELD_OUT_PROMPTS = [
    in_style(*choice) for choice in itertools.product(HELD_OUT_ANIMALS, STYLES)
]
PAPER_PROMPTS = list(ANIMALS)
