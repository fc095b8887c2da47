"""A convolution of an image whose pixels are repeated, without repeating them.

Of nine products with a repeated image many are with the same pixel. Their weights are
added first: each of the four pixels that one becomes is a 2x2 window of the image as it
was, four products instead of nine.
"""

import types
from collections.abc import Callable

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._choice import resolve
from .._device import Device, target_device
from .._dtypes import at_least_float32
from ._api import conv2d
from ._reference import Input, Weight


_Doubled = Float[Array, "batch two_height two_width out_channels"]
# Pixels of the result from which it is worth anything on a TPU. There the one way that
# is faster is one convolution of the image with zeros in between, for large images
# alone.
_MANY_PIXELS = 128 * 128
_NONE = ((0, 0),) * 3


def upsample_nearest(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 2*height 2*width channels"]:
    """Repeats every pixel twice along both spatial axes.

    **Arguments:**

    - `x`: Channels last.
    """
    batch, height, width, channels = x.shape
    shape = (batch, height, 2, width, 2, channels)
    return jnp.broadcast_to(x[:, :, None, :, None], shape).reshape(
        batch, 2 * height, 2 * width, channels
    )


def upsampled_conv2d_reference(x: Input, weight: Weight) -> _Doubled:
    """Convolves as `upsampled_conv2d` does: its definition.

    **Arguments:**

    - `x`, `weight`: As for `upsampled_conv2d`.
    """
    padding = (weight.shape[0] // 2, weight.shape[0] // 2)
    return conv2d(upsample_nearest(x), weight, padding=padding)


def _apart(x: Input, weight: Weight) -> _Doubled:
    """A convolution for each of the four kinds of pixels."""
    windows = _added(weight)
    rows = []
    for a in (0, 1):
        row = []
        for b in (0, 1):
            borders = ((0, 0, 0), (1 - a, a, 0), (1 - b, b, 0), (0, 0, 0))
            padded = lax.pad(x, jnp.zeros((), x.dtype), borders)
            row.append(conv2d(padded, windows[:, :, :, a, b]))
        rows.append(jnp.stack(row, axis=3))
    return _interleaved(jnp.stack(rows, axis=2))


def _together(x: Input, weight: Weight) -> _Doubled:
    """One convolution, whose channels are those of the four kinds of pixels."""
    windows, (height, width) = _added(weight), x.shape[1:3]
    y = conv2d(x, windows.reshape(*windows.shape[:3], -1), padding=(1, 1))
    y = y.reshape(*y.shape[:3], *windows.shape[3:])
    rows = [
        jnp.stack([y[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3)
        for a in (0, 1)
    ]
    return _interleaved(jnp.stack(rows, axis=2))


def _spread(x: Input, weight: Weight) -> _Doubled:
    """One convolution by a 4x4 window, of the image with zeros in between."""
    wide = weight.astype(at_least_float32(weight.dtype))
    for _ in ("rows", "columns"):
        wide = jnp.pad(wide, ((0, 1), *_NONE)) + jnp.pad(wide, ((1, 0), *_NONE))
        wide = jnp.swapaxes(wide, 0, 1)
    return lax.conv_general_dilated(
        x,
        wide.astype(weight.dtype),
        window_strides=(1, 1),
        padding=((2, 2), (2, 2)),
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _added(weight: Weight) -> Float[Array, "2 2 in_channels 2 2 out_channels"]:
    """The windows, rows and columns, of the four kinds of pixels, rows and columns."""
    wide = weight.astype(at_least_float32(weight.dtype))

    def halves(first, middle, last):
        before = jnp.stack([first, middle + last])
        return jnp.stack([before, jnp.stack([first + middle, last])], axis=-2)

    rows = halves(*wide)  # [2, width, in, 2, out]
    both = halves(*jnp.moveaxis(rows, 1, 0))  # [2, 2, in, 2, 2, out], columns first.
    return jnp.moveaxis(both, 0, 1).astype(weight.dtype)


def _interleaved(y: Array) -> _Doubled:
    batch, height, _, width, _, channels = y.shape
    return y.reshape(batch, 2 * height, 2 * width, channels)


_BACKENDS = types.MappingProxyType[str, Callable[[Input, Weight], _Doubled]](
    {
        "apart": _apart,
        "together": _together,
        "spread": _spread,
        "reference": upsampled_conv2d_reference,
    }
)


def choose_upsampled_conv2d(*, device: Device, out_pixels: int) -> str:
    """Chooses the backend of `upsampled_conv2d` where none is named.

    **Arguments:**

    - `device`: What is compiled for.
    - `out_pixels`: Of one image of the result.
    """
    if device.platform == "cpu":
        return "apart"
    if device.platform == "tpu":
        return "spread" if out_pixels >= _MANY_PIXELS else "reference"
    return "together"


def upsampled_conv2d(
    x: Input, weight: Weight, *, implementation: str | None = None
) -> _Doubled:
    """Repeats every pixel of `[batch, height, width, channels]`, and convolves.

    Four of the nine products of a 3x3 window are enough.

    **Arguments:**

    - `x`: Images, channels last.
    - `weight`: Of a window with an odd number of rows and as many columns, in the
        middle of the pixel that it makes.
    - `implementation`: `None` chooses by the device compiled for and the size; or, for
        3x3 windows, `"apart"`, four convolutions, `"together"`, one of four times the
        channels, or `"spread"`, one of the image with zeros in between; and
        `"reference"`, for all windows, the image made first.

    **Returns:**

    Images of twice the height and width, in the dtype of `x`.

    **Backward:** as `conv2d`; added weights are made again.
    """
    is_other = weight.shape[:2] != (3, 3)

    def choose():
        pixels = 4 * x.shape[1] * x.shape[2]
        return choose_upsampled_conv2d(device=target_device(), out_pixels=pixels)

    chosen = resolve(
        implementation,
        tuple(_BACKENDS),
        choose=lambda: "reference" if is_other else choose(),
        refusal=lambda name: (
            f"is of 3x3 windows; got {weight.shape[0]}x{weight.shape[1]}"
            if is_other and name != "reference"
            else None
        ),
    )
    if chosen == "reference":
        return upsampled_conv2d_reference(x, weight)
    # Twice as large as the weight, for every layer: not kept for the backward pass.
    return jax.checkpoint(_BACKENDS[chosen])(x, weight)
