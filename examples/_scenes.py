"""Small pictures of labelled scenes, their truths, and what is measured of the rest."""

import dataclasses
import functools as ft
import pathlib
import sys
from typing import Any

import numpy as np


_WEIGHTS = pathlib.Path(__file__).resolve().parent.parent / "weights"


@ft.cache
def _modules() -> tuple[Any, Any, Any]:
    """The embedded model's data and its judge are kept beside its weights."""
    sys.path.insert(0, str(_WEIGHTS))
    try:
        import cutouts
        import degraded
        import hallucinations
    finally:
        sys.path.remove(str(_WEIGHTS))
    return cutouts.Sprites(_WEIGHTS / "animals.npz"), degraded, hallucinations


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Holds scenes, the truths `[rows, 64, 64, 3]`, and what was made of them at 16."""

    scenes: list[Any]
    truths: np.ndarray
    small: np.ndarray

    @property
    def rows(self) -> dict[str, Any]:
        """The table: no words, the picture that is seen, and the truth."""
        return self.seen | {"truth": self.truths}

    @property
    def seen(self) -> dict[str, Any]:
        """The table without the truth: what a picture is enlarged from."""
        words = [""] * len(self.scenes)
        return {"prompt": words, "conditioning_image": self.enlarged}

    @property
    def enlarged(self) -> np.ndarray:
        """The small pictures at 64 pixels, by bicubic interpolation."""
        return np.asarray(_modules()[1].enlarge(self.small))

    def measured(self, images: Any) -> dict[str, float]:
        """Figures of images that should be the truths."""
        return _modules()[2].measured(images, self.truths, self.scenes)

    def hallucinated(self, images: Any) -> np.ndarray:
        """Says of each image whether it shows what its scene has not."""
        return _modules()[2].wrong(images, self.scenes).any(axis=1)


def pictures(seed: int, count: int, *, held_out: bool = False) -> Pictures:
    """Draws scenes at random and makes small pictures of them.

    **Arguments:**

    - `seed`: Of scenes and noise.
    - `count`: How many.
    - `held_out`: Whether of combinations that no network was trained on.
    """
    sprites, degraded, _ = _modules()
    rng = np.random.default_rng([seed, held_out])
    return Pictures(*degraded.degraded_batch(rng, sprites, count, held_out=held_out))
