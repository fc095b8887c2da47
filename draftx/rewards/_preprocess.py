"""From images in [0, 1] to what a vision network was trained on, differentiable."""

from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._custom_types import Images
from ..kernels import at_least_float32


# Networks of this folder take images of this shape.
Pixels: TypeAlias = Float[Array, "batch size size 3"]
_Resized: TypeAlias = Float[Array, "batch new_height new_width 3"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Decoders overshoot [0, 1] a little, and so does ascent on pixels; [-1, 1] and
# [0, 255] lie further out.
_SLACK = 0.25


def check_images(images: Any) -> None:
    """Raises unless the images are channels last and in [0, 1], as far as can be told.

    The range is looked at only where there are numbers: not inside `jit` or `grad`.
    """
    shape, dtype = jnp.shape(images), jnp.result_type(images)
    if len(shape) != 4:
        raise ValueError(
            "`images` must have the axes batch, height, width and channel; got the "
            f"shape {shape}. Add a batch axis to a single image: `image[None]`."
        )
    if shape[-1] != 3:
        remedy = "Drop any alpha channel, and repeat a single one."
        if shape[1] == 3:
            remedy = "`jnp.moveaxis(images, 1, -1)` makes them channels last."
        raise ValueError(
            "`images` must be channels last with three channels; got the shape "
            f"{shape}. {remedy}"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"`images` must be floats in [0, 1]; got {dtype.name}. Divide bytes by "
            "255: `images.astype(jnp.float32) / 255`."
        )
    if isinstance(images, jax.core.Tracer) or jnp.size(images) == 0:
        return
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return
    # By NumPy: a number that `jit` closes over would be traced by JAX.
    values = np.asarray(images, np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low < -_SLACK or high > 1 + _SLACK):
        return
    remedy = "Divide by 255." if high > 2 else "Map [-1, 1] by `images / 2 + 0.5`."
    raise ValueError(
        f"`images` must be in [0, 1]; got values from {low:.3g} to {high:.3g}. {remedy}"
    )


def resize(images: Images, height: int, width: int) -> _Resized:
    """Resamples images, bicubic, with antialiasing where it shrinks.

    Pillow's `BICUBIC` on floating-point images, and torchvision's with
    `antialias=True`. On bytes Pillow also rounds, and cuts what overshoots 0 and 255;
    neither is done here, where it would stop gradients.
    """
    batch, old_height, old_width, channels = images.shape
    if (old_height, old_width) == (height, width):
        return images
    shape = (batch, height, width, channels)
    return jax.image.resize(images, shape, "cubic", antialias=True)


def resize_shortest_edge(images: Images, size: int) -> _Resized:
    """Resizes in proportion, the longer edge rounded down."""
    _, height, width, _ = images.shape
    shortest = min(height, width)
    return resize(images, size * height // shortest, size * width // shortest)


def resize_longest_edge(images: Images, size: int) -> _Resized:
    """Resizes in proportion, the shorter edge rounded to the nearest."""
    _, height, width, _ = images.shape
    scale = size / max(height, width)
    return resize(images, max(1, round(height * scale)), max(1, round(width * scale)))


def center_crop(images: Images, size: int) -> Pixels:
    """Cuts out the middle square; of an odd rest, the larger half is cut at the end."""
    _, height, width, _ = images.shape
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def pad_to_square(images: Images, size: int) -> Pixels:
    """Pads the image with black; of an odd rest, the larger half comes at the end."""
    _, height, width, _ = images.shape
    rests = (size - height, size - width)
    margins = [(rest // 2, rest - rest // 2) for rest in rests]
    return jnp.pad(images, [(0, 0), *margins, (0, 0)])


def normalize(
    images: Images, mean: tuple[float, ...], std: tuple[float, ...]
) -> Images:
    """Subtracts its mean from every channel, and divides by its deviation."""
    row = lambda values: jnp.asarray(values, images.dtype)[None, None, None]
    return (images - row(mean)) / row(std)


def clip_preprocess(images: Images, size: int) -> Pixels:
    """Prepares by the shortest edge, a center crop and CLIP's normalization.

    In at least float32.
    """
    check_images(images)
    images = images.astype(at_least_float32(images.dtype))
    square = center_crop(resize_shortest_edge(images, size), size)
    return normalize(square, CLIP_MEAN, CLIP_STD)


def hps_preprocess(images: Images, size: int) -> Pixels:
    """Prepares by the longest edge, black margins and CLIP's normalization.

    In at least float32.
    """
    check_images(images)
    images = images.astype(at_least_float32(images.dtype))
    square = pad_to_square(resize_longest_edge(images, size), size)
    return normalize(square, CLIP_MEAN, CLIP_STD)


def blip_preprocess(images: Images, size: int) -> Pixels:
    """Prepares as `clip_preprocess`, with the crop where torchvision has it.

    Of an odd rest, a half is rounded to the even number.
    """
    check_images(images)
    images = resize_shortest_edge(images.astype(at_least_float32(images.dtype)), size)
    _, height, width, _ = images.shape
    top, left = round((height - size) / 2), round((width - size) / 2)
    square = images[:, top : top + size, left : left + size]
    return normalize(square, CLIP_MEAN, CLIP_STD)


def stretch_preprocess(images: Images, size: int) -> Pixels:
    """Prepares by stretching both edges to `size`, and CLIP's normalization.

    In at least float32.
    """
    check_images(images)
    images = images.astype(at_least_float32(images.dtype))
    return normalize(resize(images, size, size), CLIP_MEAN, CLIP_STD)
