from typing import TypeAlias

import jax.lax as lax
from jaxtyping import Array, Float


Input: TypeAlias = Float[Array, "batch height width in_channels"]
Weight: TypeAlias = Float[Array, "kernel_height kernel_width in_channels out_channels"]
Output: TypeAlias = Float[Array, "batch out_height out_width out_channels"]


def conv2d_reference(
    x: Input, weight: Weight, *, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> Output:
    """Convolves `[batch, height, width, channels]` as XLA does, with its gradients.

    The definition of `conv2d`, and what it is on anything but a CPU.

    **Arguments:**

    - `x`, `weight`, `stride`, `padding`: As for `conv2d`.
    """
    return lax.conv_general_dilated(
        x,
        weight,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
