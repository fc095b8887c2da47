"""Baseline JPEG, there and back, in `jax.numpy`.

Entropy coding loses nothing, so the files themselves are never built: the round trip is
color conversion, chroma averaging, block DCT, quantization, and all of it undone. What
libjpeg computes in integers is computed here in floats that hold the same integers.
"""

from collections.abc import Callable
from typing import get_args, TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int, Shaped

from ._jpeg_tables import (
    BLUE_FROM_CB,
    COLOR_BITS,
    DCT_BITS,
    GREEN_FROM_CB,
    GREEN_FROM_CR,
    INTEGER_DCT,
    quantization_tables,
    RED_FROM_CR,
    RGB_TO_YCBCR,
    Rounding,
    Subsampling,
)


_Planes: TypeAlias = Float[Array, "batch height width channels"]
_Blocks: TypeAlias = Float[Array, "batch rows 8 columns 8 channels"]
# (total, divisor, bias) -> the integer (total + bias) // divisor, or total / divisor.
_Divide: TypeAlias = Callable[[Array, int, Array | int], Array]


def jpeg_roundtrip(
    images: Shaped[Array, "*shape"],
    quality: int | Int[Array, ""],
    subsampling: Subsampling = "4:2:0",
    *,
    rounding: Rounding = "hard",
) -> Float[Array, "*shape"]:
    """Decodes the JPEG encoding of each image: what libjpeg would give back.

    Tables of ITU-T T.81 Annex K scaled by libjpeg's quality rule, JFIF colors, chroma
    halved by 2x2 means and brought back by libjpeg's triangle filter, sizes that are
    not whole blocks padded with their last row and column.

    **Arguments:**

    - `images`: Floating, channels last, RGB, in $[0, 1]$; values outside are clipped.
        Any height and width. Anything but float64 is computed in float32.
    - `quality`: 1 (coarse) to 100 (fine). A traced integer is allowed.
    - `subsampling`: `"4:2:0"` stores chroma at half size, `"4:4:4"` at full size.
    - `rounding`: How a DCT coefficient becomes a whole number of steps.
        `"hard"` rounds, as a JPEG file does; images are first rounded to 8 bits, the
        result is 8-bit too, and it is constant almost everywhere: derivative zero.
        `"cubic"` is `round(x) + (x - round(x)) ** 3`, which is differentiable between
        the midpoints; no other quantity is rounded, so it is the only approximation.

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
    dtype = jnp.float64 if images.dtype == jnp.float64 else jnp.float32
    pixels = 255 * jnp.clip(images.astype(dtype), 0, 1)
    if rounding == "hard":
        divide, to_steps = _integer_divide, _round
        pixels = jnp.round(lax.stop_gradient(pixels))
    else:
        divide, to_steps = _exact_divide, _cubic_round
    luma_steps, chroma_steps = quantization_tables(quality).astype(dtype)

    luma, chroma = _to_ycbcr(pixels, divide)
    height, width = images.shape[1:3]
    if subsampling == "4:2:0":
        chroma = _halve(chroma, divide)
    luma = _code(luma, luma_steps, divide, to_steps)
    chroma = _code(chroma, chroma_steps, divide, to_steps)
    if subsampling == "4:2:0":
        chroma = chroma[:, : -(-height // 2), : -(-width // 2)]
        chroma = _double(chroma, divide)
    luma, chroma = (planes[:, :height, :width] for planes in (luma, chroma))
    return jnp.clip(_to_rgb(luma, chroma, divide), 0, 255) / 255


def check_codec_arguments(
    quality: int | Int[Array, ""], subsampling: str, rounding: str
) -> None:
    """Raises `ValueError` for what `jpeg_roundtrip` cannot take."""
    if isinstance(quality, int) and not 1 <= quality <= 100:
        raise ValueError(
            f"`quality` must lie in [1, 100]; got {quality}. 1 is the coarsest "
            "quantization and 100 the finest."
        )
    if subsampling not in get_args(Subsampling):
        raise ValueError(
            f"`subsampling` must be one of {get_args(Subsampling)}; got "
            f"{subsampling!r}. Image libraries default to '4:2:0'."
        )
    if rounding not in get_args(Rounding):
        raise ValueError(
            f"`rounding` must be one of {get_args(Rounding)}; got {rounding!r}. Use "
            "'hard' for what a file holds, 'cubic' for a derivative through the codec."
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


# Arithmetic --------------------------------------------------------------------------


def _integer_divide(total: Array, divisor: int, bias: Array | int) -> Array:
    return jnp.floor((total + bias) / divisor)


def _exact_divide(total: Array, divisor: int, bias: Array | int) -> Array:
    del bias  # It exists to make a floor round.
    return total / divisor


def _round(x: Array) -> Array:
    # Midpoints go away from zero, not to even: flat images hit them all the time.
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def _cubic_round(x: Array) -> Array:
    nearest = lax.stop_gradient(_round(x))
    return nearest + (x - nearest) ** 3


def _matmul(subscripts: str, x: Array, matrix: Array) -> Array:
    # The integers need all 24 bits, which accelerators do not spend by default.
    return jnp.einsum(subscripts, x, matrix, precision=lax.Precision.HIGHEST)


# Colors ------------------------------------------------------------------------------


def _to_ycbcr(pixels: _Planes, divide: _Divide) -> tuple[_Planes, _Planes]:
    """Luma (one channel) and chroma (two), both centered on zero."""
    one = 2**COLOR_BITS
    total = _matmul("bhwc,kc->bhwk", pixels, jnp.asarray(RGB_TO_YCBCR, pixels.dtype))
    luma = divide(total[..., :1], one, one // 2) - 128
    return luma, divide(total[..., 1:], one, one // 2 - 1)


def _to_rgb(luma: _Planes, chroma: _Planes, divide: _Divide) -> _Planes:
    one = 2**COLOR_BITS
    y, (cb, cr) = luma[..., 0] + 128, jnp.moveaxis(chroma, -1, 0)
    red = y + divide(RED_FROM_CR * cr, one, one // 2)
    green = y + divide(GREEN_FROM_CB * cb + GREEN_FROM_CR * cr, one, one // 2)
    blue = y + divide(BLUE_FROM_CB * cb, one, one // 2)
    return jnp.stack([red, green, blue], axis=-1)


# Chroma at half size -----------------------------------------------------------------


def _pad_to_multiple(planes: _Planes, rows: int, columns: int) -> _Planes:
    bottom, right = -planes.shape[1] % rows, -planes.shape[2] % columns
    return jnp.pad(planes, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")


def _halve(chroma: _Planes, divide: _Divide) -> _Planes:
    # Columns are padded to whole blocks before averaging, rows after it.
    chroma = _pad_to_multiple(chroma, 2, 16)
    total = rearrange(chroma, "b (h i) (w j) c -> b h w c i j", i=2, j=2).sum((-2, -1))
    # Two thirds of libjpeg's ties would go one way, were the bias not alternating.
    bias = jnp.asarray(np.arange(total.shape[2]) % 2 + 1, total.dtype)
    return divide(total, 4, bias[None, None, :, None])


def _double(chroma: _Planes, divide: _Divide) -> _Planes:
    """Weights 3/4 and 1/4 of the nearest and next sample, on each axis."""
    if chroma.shape[2] <= 2:  # Too narrow for libjpeg's filter; it repeats instead.
        return jnp.repeat(jnp.repeat(chroma, 2, axis=1), 2, axis=2)
    padded = jnp.pad(chroma, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    rows = jnp.stack([padded[:, :-2], padded[:, 2:]], axis=2) + 3 * chroma[:, :, None]
    rows = rearrange(rows, "b h i w c -> b (h i) w c")
    padded = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    left = divide(3 * rows + padded[:, :, :-2], 16, 8)
    right = divide(3 * rows + padded[:, :, 2:], 16, 7)
    return rearrange(jnp.stack([left, right], axis=3), "b h w j c -> b h (w j) c")


# Blocks ------------------------------------------------------------------------------


def _code(
    planes: _Planes,
    steps: Float[Array, "8 8"],
    divide: _Divide,
    to_steps: Callable[[Array], Array],
) -> _Planes:
    """Quantizes the DCT of each 8x8 block; padded to whole blocks."""
    planes = _pad_to_multiple(planes, 8, 8)
    blocks = rearrange(planes, "b (h i) (w j) c -> b h i w j c", i=8, j=8)
    steps = steps[None, None, :, None, :, None]
    # The transform's output is eight times the orthonormal one.
    coefficients = to_steps(_dct(blocks, divide) / (8 * steps)) * steps
    blocks = jnp.clip(_inverse_dct(coefficients, divide), -128, 127)
    return rearrange(blocks, "b h i w j c -> b (h i) (w j) c")


@jax.named_scope("draftx.jpeg.dct")
def _dct(blocks: _Blocks, divide: _Divide) -> _Blocks:
    matrix = jnp.asarray(INTEGER_DCT, blocks.dtype)
    # Two fractional bits are kept between the passes.
    first, second = 2 ** (DCT_BITS - 2), 2 ** (DCT_BITS + 2)
    rows = _matmul("bhiwjc,lj->bhiwlc", blocks, matrix)
    rows = divide(rows, first, first // 2)
    both = _matmul("bhiwlc,ki->bhkwlc", rows, matrix)
    return divide(both, second, second // 2)


@jax.named_scope("draftx.jpeg.inverse_dct")
def _inverse_dct(coefficients: _Blocks, divide: _Divide) -> _Blocks:
    matrix = jnp.asarray(INTEGER_DCT, coefficients.dtype)
    # The second divisor also takes back the factor sqrt(8) of each pass.
    first, second = 2 ** (DCT_BITS - 2), 2 ** (DCT_BITS + 5)
    columns = _matmul("bhkwlc,ki->bhiwlc", coefficients, matrix)
    columns = divide(columns, first, first // 2)
    both = _matmul("bhiwlc,lj->bhiwjc", columns, matrix)
    return divide(both, second, second // 2)
