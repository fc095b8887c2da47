"""Which backend computes a convolution: the rules, as functions of plain values."""

from typing import Literal, NamedTuple, TypeAlias

from .._device import Device


Implementation: TypeAlias = Literal["mirrored", "patches", "reference"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("mirrored", "patches", "reference")

# Up to so many pixels of output, XLA's convolution on a CPU is slower than a matrix
# product of patches: by a factor of 24 for 2x2, not at all for 4x4.
_FEW_PIXELS = 9


class ConvShape(NamedTuple):
    """Holds the sizes of a convolution that the rules depend on.

    **Arguments:**

    - `out_height`, `out_width`: Of the result.
    """

    out_height: int
    out_width: int


def choose_conv2d(*, device: Device, shape: ConvShape) -> Implementation:
    """Chooses the backend of `conv2d` where none is named.

    Patches of few pixels or the mirrored weight on a CPU, XLA's own convolution
    everywhere else.

    **Arguments:**

    - `device`: What is compiled for.
    - `shape`: The sizes.
    """
    if device.platform != "cpu":
        return "reference"
    is_small = shape.out_height * shape.out_width <= _FEW_PIXELS
    return "patches" if is_small else "mirrored"
