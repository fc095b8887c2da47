"""Small, blurred, noisy and compressed pictures of scenes, and the scenes they are of.

What the embedded super-resolution model is trained on, and what it is measured on: 64
pixels of a scene become 16, and are brought back to 64 by bicubic interpolation, which
is what the model sees.
"""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from composites import draw_scenes
from jaxtyping import Array, Float, PRNGKeyArray
from scenes import named_scenes, SIZE

from draftx.rewards import Degradation


FACTOR = 4
DEGRADATION = Degradation(FACTOR, blur=2.0, noise=0.08, quality=50)


@ft.partial(jax.jit, static_argnames="size")
def enlarge(
    small: Float[Array, "batch small_height small_width 3"], size: int = SIZE
) -> Float[Array, "batch height width 3"]:
    """Bicubic interpolation, clipped to $[0, 1]$."""
    shape = (len(small), size, size, 3)
    return jnp.clip(jax.image.resize(small, shape, "cubic"), 0.0, 1.0)


@jax.jit
def degrade(
    images: Float[Array, "batch height width 3"], key: PRNGKeyArray
) -> Float[Array, "batch small_height small_width 3"]:
    """The small picture of each image, with noise of its own."""
    return DEGRADATION(images, key)


def degraded_batch(rng, sprites, n, *, held_out=False):
    """Scenes, their images and their small pictures.

    **Arguments:**

    - `rng`: a `numpy.random.Generator`.
    - `sprites`: a [`Sprites`][].
    - `n`: how many.
    - `held_out`: whether their combinations of animal, style, pattern and color are
        those that no network has seen, or the others.

    **Returns:**

    A list of scenes, images and small pictures, floats in [0, 1].
    """
    scenes = named_scenes(rng, sprites, n, held_out=held_out)
    images = draw_scenes(sprites, scenes).astype(np.float32) / 255
    key = jr.key(int(rng.integers(2**31)))
    return scenes, images, np.asarray(degrade(images, key))
