"""Baseline JPEG, there and back, in `jax.numpy`.

Entropy coding loses nothing, so the files themselves are never built: the round trip is
color conversion, chroma averaging, block DCT, quantization, and all of it undone.
"""

from typing import get_args

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..._checks import is_traced, is_whole, plain
from ..._custom_types import WholeLike
from ...kernels import at_least_float32
from ._stages import (
    code,
    cubic_round,
    double,
    exact_divide,
    halve,
    hard_cubic_round,
    integer_divide,
    round_half_away,
    to_rgb,
    to_ycbcr,
)
from ._tables import quantization_tables, Rounding, Subsampling


def jpeg_roundtrip(
    images: Shaped[Array, "*shape"],
    quality: WholeLike,
    subsampling: Subsampling = "4:2:0",
    *,
    rounding: Rounding = "hard",
    tables: Float[Array, "2 8 8"] | None = None,
) -> Float[Array, "*shape"]:
    """Decodes the JPEG encoding of each image: what libjpeg would give back.

    Tables of ITU-T T.81 Annex K scaled by libjpeg's quality rule, JFIF colors, chroma
    halved by 2x2 means and brought back by libjpeg's triangle filter, sizes that are
    not whole blocks padded with their last row and column. With `rounding="hard"` the
    result is what libjpeg-turbo decodes, but for the rare block (in strong noise, about
    one in five thousand) that has a coefficient midway between two steps.

    **Arguments:**

    - `images`: Floating, channels last, RGB, in $[0, 1]$; values outside are clipped.
        Any height and width. Anything but float64 is computed in float32.
    - `quality`: 1 (coarse) to 100 (fine). A traced integer is allowed.
    - `subsampling`: `"4:2:0"` stores chroma at half size, `"4:4:4"` at full size.
    - `rounding`: How a DCT coefficient becomes a whole number of steps.
        `"hard"` rounds, as a JPEG file does. Pixels are rounded to 8 bits on both
        sides too, and every integer division of libjpeg is kept. The result is
        constant almost everywhere: its derivative is zero.
        `"cubic"` is `round(x) + (x - round(x)) ** 3`, which has a derivative between
        the midpoints. Nothing else is rounded, so no other derivative is lost.
        `"hard_cubic"` rounds the coefficients, and nothing else, and has the derivative
        of `"cubic"`.
    - `tables`: Quantization steps of luminance and chrominance, in place of those of
        `quality`: any positive numbers.

    **Returns:**

    Images like `images`, in $[0, 1]$ and in float32 (or float64).

    !!! info

        Straight-through rounding (round forwards, identity backwards) is left out on
        purpose. It makes the decoder the encoder's inverse as far as derivatives can
        tell, so the gradient of `sum((x - jpeg_roundtrip(x)) ** 2)`, the quantity that
        compressibility rewards are built on, vanishes up to clipping and chroma terms.

    ??? cite

        [ITU-T T.81](https://www.w3.org/Graphics/JPEG/itu-t81.pdf), annexes A and K,
        and [JFIF](https://www.w3.org/Graphics/JPEG/jfif3.pdf). Cubic rounding is from
        [JPEG-resistant adversarial images](https://machine-learning-and-security.github.io/papers/mlsec17_paper_54.pdf).
    """
    check_codec_arguments(quality, subsampling, rounding)
    _check_images(images)
    dtype = at_least_float32(images.dtype)
    pixels = 255 * jnp.clip(images.astype(dtype), 0, 1)
    if rounding == "hard":
        divide, to_steps = integer_divide, round_half_away
        pixels = jnp.round(lax.stop_gradient(pixels))
    else:
        divide = exact_divide
        to_steps = cubic_round if rounding == "cubic" else hard_cubic_round
    steps = quantization_tables(plain(quality)) if tables is None else tables
    luma_steps, chroma_steps = steps.astype(dtype)

    luma, chroma = to_ycbcr(pixels, divide)
    height, width = images.shape[1:3]
    if subsampling == "4:2:0":
        chroma = halve(chroma, divide)
    luma = code(luma, luma_steps, divide, to_steps)
    chroma = code(chroma, chroma_steps, divide, to_steps)
    if subsampling == "4:2:0":
        chroma = chroma[:, : -(-height // 2), : -(-width // 2)]
        chroma = double(chroma, divide)
    luma, chroma = (planes[:, :height, :width] for planes in (luma, chroma))
    return jnp.clip(to_rgb(luma, chroma, divide), 0, 255) / 255


def check_codec_arguments(quality: WholeLike, subsampling: str, rounding: str) -> None:
    """Raises `ValueError` for what `jpeg_roundtrip` cannot take."""
    known = plain(quality)
    if not is_traced(quality) and not (is_whole(known) and known <= 100):
        raise ValueError(
            f"`quality` must lie in [1, 100]; got {quality!r}. 1 is "
            "the coarsest quantization and 100 the finest."
        )
    if subsampling not in get_args(Subsampling):
        raise ValueError(
            f"`subsampling` must be one of {get_args(Subsampling)}; got "
            f"{subsampling!r}. Image libraries default to '4:2:0'."
        )
    if rounding not in get_args(Rounding):
        raise ValueError(
            f"`rounding` must be one of {get_args(Rounding)}; got {rounding!r}. Use "
            "'hard' for what a file holds, the others for a derivative through the "
            "codec."
        )


def _check_images(images: Array) -> None:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            "`images` must have shape (batch, height, width, 3); got "
            f"{images.shape}. Give one image a batch axis with `images[None]`."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"`images` must be floating, in [0, 1]; got {images.dtype}. Convert bytes "
            "with `images.astype(jnp.float32) / 255`."
        )
