"""Convolution as one matrix product of patches, for a few pixels on a CPU."""

import jax.numpy as jnp

from ._reference import Input, Output, Weight
from ._windows import windows


def conv2d_patches(
    x: Input, weight: Weight, *, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> Output:
    """Convolves `[batch, height, width, channels]` by a product of patches.

    **Backward:** saves the patches, the size of the window times as large as `x`, if
    the gradient of the weight is wanted.
    """
    patches = jnp.concatenate(windows(x, weight, stride, padding), axis=-1)
    return patches @ weight.reshape(-1, weight.shape[-1])
