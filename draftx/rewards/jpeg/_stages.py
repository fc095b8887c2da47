"""The steps of baseline JPEG, each as libjpeg computes it or without its roundings.

libjpeg works in fixed point, which the integer version here repeats in floats, with a
floor after every division. All its integers fit the 24 bits of a float32 but some sums
inside the DCT, off by a few hundredths at the very worst when they are rounded.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from ._tables import (
    BLUE_FROM_CB,
    COLOR_BITS,
    DCT_BITS,
    GREEN_FROM_CB,
    GREEN_FROM_CR,
    INTEGER_DCT,
    RED_FROM_CR,
    RGB_TO_YCBCR,
)


# Luma and chroma are centered on zero throughout, pixels are 0 to 255.
_Pixels: TypeAlias = Float[Array, "batch height width 3"]
_Luma: TypeAlias = Float[Array, "batch height width 1"]
_Chroma: TypeAlias = Float[Array, "batch height width 2"]
_Planes: TypeAlias = Float[Array, "batch height width channels"]
_PaddedPlanes: TypeAlias = Float[Array, "batch padded_height padded_width channels"]
_Blocks: TypeAlias = Float[Array, "batch rows 8 columns 8 channels"]
# (total, divisor, bias) -> the integer (total + bias) // divisor, or total / divisor.
Divide: TypeAlias = Callable[[Array, int, Array | int], Array]


def integer_divide(total: Array, divisor: int, bias: Array | int) -> Array:
    return jnp.floor((total + bias) / divisor)


def exact_divide(total: Array, divisor: int, bias: Array | int) -> Array:
    del bias  # It exists to make a floor round.
    return total / divisor


def round_half_away(x: Array) -> Array:
    # Midpoints go away from zero, not to even: flat images hit them all the time.
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def cubic_round(x: Array) -> Array:
    nearest = lax.stop_gradient(round_half_away(x))
    return nearest + (x - nearest) ** 3


def hard_cubic_round(x: Array) -> Array:
    """Rounds, with the slope of `cubic_round`."""
    nearest = lax.stop_gradient(round_half_away(x))
    cube = (x - nearest) ** 3
    return nearest + (cube - lax.stop_gradient(cube))


def _matmul(subscripts: str, x: Array, matrix: Array) -> Array:
    # The integers need all 24 bits, which accelerators do not spend by default.
    return jnp.einsum(subscripts, x, matrix, precision=lax.Precision.HIGHEST)


def to_ycbcr(pixels: _Pixels, divide: Divide) -> tuple[_Luma, _Chroma]:
    one = 2**COLOR_BITS
    total = _matmul("bhwc,kc->bhwk", pixels, jnp.asarray(RGB_TO_YCBCR, pixels.dtype))
    luma = divide(total[..., :1], one, one // 2) - 128
    return luma, divide(total[..., 1:], one, one // 2 - 1)


def to_rgb(luma: _Luma, chroma: _Chroma, divide: Divide) -> _Pixels:
    one = 2**COLOR_BITS
    y, (cb, cr) = luma[..., 0] + 128, jnp.moveaxis(chroma, -1, 0)
    red = y + divide(RED_FROM_CR * cr, one, one // 2)
    green = y + divide(GREEN_FROM_CB * cb + GREEN_FROM_CR * cr, one, one // 2)
    blue = y + divide(BLUE_FROM_CB * cb, one, one // 2)
    return jnp.stack([red, green, blue], axis=-1)


def _pad_to_multiple(planes: _Planes, rows: int, columns: int) -> _PaddedPlanes:
    bottom, right = -planes.shape[1] % rows, -planes.shape[2] % columns
    return jnp.pad(planes, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")


def halve(
    chroma: _Chroma, divide: Divide
) -> Float[Array, "batch half_height half_width 2"]:
    """Averages 2x2 samples, padded to whole blocks of columns."""
    # Columns are padded to whole blocks before averaging, rows after it.
    chroma = _pad_to_multiple(chroma, 2, 16)
    total = rearrange(chroma, "b (h i) (w j) c -> b h w c i j", i=2, j=2).sum((-2, -1))
    # Alternating, so that sums on a tie do not all round the same way.
    bias = jnp.asarray(np.arange(total.shape[2]) % 2 + 1, total.dtype)
    return divide(total, 4, bias[None, None, :, None])


def double(
    chroma: _Chroma, divide: Divide
) -> Float[Array, "batch double_height double_width 2"]:
    """Interpolates on each axis: 3/4 of the nearest sample, 1/4 of the next one."""
    if chroma.shape[2] <= 2:  # Too narrow for libjpeg's filter; it repeats instead.
        return jnp.repeat(jnp.repeat(chroma, 2, axis=1), 2, axis=2)
    padded = jnp.pad(chroma, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="edge")
    rows = jnp.stack([padded[:, :-2], padded[:, 2:]], axis=2) + 3 * chroma[:, :, None]
    rows = rearrange(rows, "b h i w c -> b (h i) w c")
    padded = jnp.pad(rows, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    left = divide(3 * rows + padded[:, :, :-2], 16, 8)
    right = divide(3 * rows + padded[:, :, 2:], 16, 7)
    return rearrange(jnp.stack([left, right], axis=3), "b h w j c -> b h (w j) c")


def code(
    planes: _Planes,
    steps: Float[Array, "8 8"],
    divide: Divide,
    to_steps: Callable[[Array], Array],
) -> _PaddedPlanes:
    """Quantizes the DCT of each 8x8 block; padded to whole blocks."""
    planes = _pad_to_multiple(planes, 8, 8)
    blocks = rearrange(planes, "b (h i) (w j) c -> b h i w j c", i=8, j=8)
    steps = steps[None, None, :, None, :, None]
    # The transform's output is eight times the orthonormal one.
    coefficients = to_steps(_dct(blocks, divide) / (8 * steps)) * steps
    blocks = jnp.clip(_inverse_dct(coefficients, divide), -128, 127)
    return rearrange(blocks, "b h i w j c -> b (h i) (w j) c")


@jax.named_scope("draftx.jpeg.dct")
def _dct(blocks: _Blocks, divide: Divide) -> _Blocks:
    matrix = jnp.asarray(INTEGER_DCT, blocks.dtype)
    # Two fractional bits are kept between the passes.
    first, second = 2 ** (DCT_BITS - 2), 2 ** (DCT_BITS + 2)
    rows = _matmul("bhiwjc,lj->bhiwlc", blocks, matrix)
    rows = divide(rows, first, first // 2)
    both = _matmul("bhiwlc,ki->bhkwlc", rows, matrix)
    return divide(both, second, second // 2)


@jax.named_scope("draftx.jpeg.inverse_dct")
def _inverse_dct(coefficients: _Blocks, divide: Divide) -> _Blocks:
    matrix = jnp.asarray(INTEGER_DCT, coefficients.dtype)
    # The second divisor also takes back the factor sqrt(8) of each pass.
    first, second = 2 ** (DCT_BITS - 2), 2 ** (DCT_BITS + 5)
    columns = _matmul("bhkwlc,ki->bhiwlc", coefficients, matrix)
    columns = divide(columns, first, first // 2)
    both = _matmul("bhiwlc,lj->bhiwjc", columns, matrix)
    return divide(both, second, second // 2)
