"""What an enlarged picture got wrong: error, sharpness, and what is not in the truth.

The scenes are known, so that hallucination can be counted: a picture in which the judge
sees another animal, another style or another pattern than its scene has.
"""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from judge import HEADS, load_judge, predict, scene_labels


COUNTED = ("animal", "style", "pattern")
_GRAY = (0.299, 0.587, 0.114)


@ft.cache
def _judge():
    return load_judge()


def wrong(images, scenes) -> np.ndarray:
    """Says of each image, for each of `COUNTED`, whether the judge sees another.

    **Arguments:**

    - `images`: floats in [0, 1], 64 × 64.
    - `scenes`: what they should show.
    """
    heads = [list(HEADS).index(head) for head in COUNTED]
    seen = predict(_judge(), jnp.asarray(images, jnp.float32))
    return (seen != scene_labels(scenes))[:, heads]


def psnr(images, truths) -> np.ndarray:
    """Decibels, of each image."""
    squared = np.mean(np.square(np.asarray(images) - truths), axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(squared, 1e-10))


@jax.jit
def sharpness(images: Float[Array, "batch height width 3"]) -> Float[Array, " batch"]:
    """The mean size of the gradient of gray pixels."""
    gray = images @ jnp.asarray(_GRAY)
    down = gray[:, 1:, :-1] - gray[:, :-1, :-1]
    across = gray[:, :-1, 1:] - gray[:, :-1, :-1]
    return jnp.mean(jnp.sqrt(jnp.square(down) + jnp.square(across) + 1e-12), (1, 2))


def measured(images, truths, scenes) -> dict[str, float]:
    """The figures of some images.

    **Arguments:**

    - `images`, `truths`: floats in [0, 1], 64 × 64.
    - `scenes`: what the truths show.

    **Returns:**

    Means: decibels, sharpness over that of the truths, the share of images with
    anything hallucinated, and that of each kind.
    """
    is_wrong = wrong(images, scenes)
    sharp = float(jnp.mean(sharpness(jnp.asarray(images))))
    figures = {
        "psnr": float(np.mean(psnr(images, truths))),
        "sharpness": sharp / float(jnp.mean(sharpness(jnp.asarray(truths)))),
        "hallucinated": float(np.mean(is_wrong.any(axis=1))),
    }
    for name, column in zip(COUNTED, is_wrong.T, strict=True):
        figures[f"wrong_{name}"] = float(np.mean(column))
    return figures
