"""How unlike each other images are."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._custom_types import Images


Features: TypeAlias = Callable[[Images], Float[Array, "batch ..."]]


def coarse_pixels(images: Images) -> Float[Array, "batch features"]:
    """Shrinks images to 16 × 16 pixels, as vectors.

    Divided by the square root of their length: the Euclidean distance of two is the
    root-mean-square difference of their colors, from 0 to 1.

    **Arguments:**

    - `images`: Channels last.
    """
    shape = (images.shape[0], 16, 16, 3)
    small = jax.image.resize(images.astype(jnp.float32), shape, "linear")
    return small.reshape(shape[0], -1) / jnp.sqrt(16.0 * 16.0 * 3.0)


def diversity(
    features: Float[np.ndarray, "prompts samples features"],
) -> dict[str, float]:
    """Computes mean distances between features of images.

    The first falls where training collapses on one image for each prompt, the second
    where all prompts give the same one.

    **Arguments:**

    - `features`: Of several images for each of several prompts.

    **Returns:**

    - `diversity`: The mean Euclidean distance of two images of the same prompt.
    - `diversity_across`: Of two images of different prompts.

    What has no pairs is left out.
    """
    prompts, samples, _ = features.shape
    rows = np.asarray(features, np.float64).reshape(prompts * samples, -1)
    rows = rows - rows.mean(0)  # Against cancellation.
    squares = np.sum(rows**2, axis=1)
    distances = np.sqrt(
        np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0)
    )
    prompt = np.repeat(np.arange(prompts), samples)
    is_same = prompt[:, None] == prompt[None, :]
    figures = {}
    if samples > 1:
        is_pair = is_same & ~np.eye(len(rows), dtype=bool)
        figures["diversity"] = float(distances[is_pair].mean())
    if prompts > 1:
        figures["diversity_across"] = float(distances[~is_same].mean())
    return figures
