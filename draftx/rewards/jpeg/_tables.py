"""The numbers baseline JPEG is made of, and the rule that turns quality into steps."""

from typing import Final, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


Subsampling: TypeAlias = Literal["4:2:0", "4:4:4"]
Rounding: TypeAlias = Literal["hard", "cubic", "hard_cubic"]

# ITU-T T.81, tables K.1 and K.2: the quantization steps at quality 50.
LUMINANCE_STEPS: Final = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE_STEPS: Final = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)

# The eight-point DCT times sqrt(8), in 13-bit fixed point, as the products of
# libjpeg's accurate integer transform add up. The entries that differ by one from the
# rounded cosines are meant to: libjpeg rounds the factors, not the products. Row =
# frequency; the transpose is libjpeg's inverse.
DCT_BITS: Final = 13
INTEGER_DCT: Final = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)

# JFIF color conversion in 16-bit fixed point; chroma is centered on zero here.
COLOR_BITS: Final = 16
RGB_TO_YCBCR: Final = (
    (19595, 38470, 7471),
    (-11059, -21709, 32768),
    (32768, -27439, -5329),
)
RED_FROM_CR: Final = 91881
GREEN_FROM_CB: Final = -22554
GREEN_FROM_CR: Final = -46802
BLUE_FROM_CB: Final = 116130


def quantization_tables(quality: int | Int[Array, ""]) -> Int[Array, "2 8 8"]:
    """Computes luminance and chrominance steps by libjpeg's rule, all in integers.

    Below 50 the steps of quality 50 grow as `5000 // quality` percent, from 50 on they
    shrink as `200 - 2 * quality` percent; baseline files hold steps of 1 to 255.

    **Arguments:**

    - `quality`: 1 to 100. A traced value outside is clipped to that range, as libjpeg
        does.

    **Returns:**

    The two tables, rows vertical frequency, columns horizontal frequency.
    """
    quality = jnp.clip(jnp.asarray(quality).astype(jnp.int32), 1, 100)
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = np.asarray((LUMINANCE_STEPS, CHROMINANCE_STEPS), np.int32)
    return jnp.clip((steps * percent + 50) // 100, 1, 255)
