"""What is measured of held-out images besides the reward that is trained on.

`draftx train --eval-reward` and `draftx evaluate --reward` take each by its place,
`examples/_measures.py:bytes_q80`.
"""

import pathlib
import sys

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from _pictures import jpeg_bytes

import draftx
from draftx.rewards import AbstractReward, HostReward


_WEIGHTS = pathlib.Path(__file__).resolve().parent.parent / "weights"


def _above_flat(quality: int) -> HostReward:
    """Bytes of real JPEG files, less those of a flat image, which are all header."""

    def sizes(images):
        flat = np.full_like(images[:1], 0.5)
        return jpeg_bytes(images, quality) - jpeg_bytes(flat, quality)

    return HostReward(sizes)


bytes_q80 = HostReward(lambda images: jpeg_bytes(images, 80))
bytes_above_flat_q80 = _above_flat(80)
bytes_above_flat_q95 = _above_flat(95)


class AnimalAccuracy(AbstractReward):
    """Says whether a network that no reward is made of sees the animal of the prompt.

    It knows the embedded model's images alone, and is kept beside its weights.
    """

    network: eqx.Module
    animals: tuple[str, ...] = eqx.field(static=True)

    def __init__(self):
        sys.path.insert(0, str(_WEIGHTS))
        try:
            from judge import HEADS, load_judge
        finally:
            sys.path.remove(str(_WEIGHTS))
        self.network, self.animals = load_judge(), HEADS["animal"]

    def prepare(self, rows):
        named = map(draftx.runs.animal_of, rows["prompt"])
        return jnp.asarray([self.animals.index(animal) for animal in named])

    def __call__(self, images, features=None):
        seen = jnp.argmax(self.network(images)["animal"], axis=-1)
        return (seen == features).astype(jnp.float32)


animal_accuracy = AnimalAccuracy
