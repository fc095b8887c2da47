import types
from collections.abc import Callable

from jaxtyping import Array

from .._choice import resolve
from .._device import target_device
from ._dispatch import choose_conv2d, ConvShape, IMPLEMENTATIONS
from ._mirrored import conv2d_mirrored
from ._patches import conv2d_patches
from ._reference import conv2d_reference, Input, Output, Weight


_BACKENDS = types.MappingProxyType[str, Callable[..., Array]](
    {
        "mirrored": conv2d_mirrored,
        "patches": conv2d_patches,
        "reference": conv2d_reference,
    }
)


def conv2d(
    x: Input,
    weight: Weight,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    implementation: str | None = None,
) -> Output:
    r"""Convolves images `[batch, height, width, channels]` (a cross-correlation).

    $$y_{b,i,j,o} = \sum_{u,v,c} w_{u,v,c,o}\, x_{b,\,si+u-p,\,sj+v-p,\,c}$$

    **Arguments:**

    - `x`: Images, channels last.
    - `weight`: $w$.
    - `stride`: $s$, of both spatial axes.
    - `padding`: Zeros before ($p$) and after, the same for both spatial axes.
    - `implementation`: `None` chooses by the device compiled for (that of
        `compiling_for`, else JAX's default device) and the shapes. All that can be
        named run everywhere:
        - `"mirrored"`: XLA's convolution with a VJP that CPUs are fast at.
        - `"patches"`: One matrix product of patches; for a few pixels on a CPU.
        - `"reference"`: XLA's convolution and its gradients, the choice for
            accelerators.

    **Returns:**

    $y$, in the dtype of `x`.

    **Backward:** saves the weight if the gradient of `x` is wanted, and `x` (or its
    patches) if that of the weight is.
    """
    height, width = (
        (x.shape[axis] + sum(padding) - weight.shape[axis - 1]) // stride + 1
        for axis in (1, 2)
    )
    device, shape = target_device(), ConvShape(height, width)
    chosen = resolve(
        implementation,
        IMPLEMENTATIONS,
        choose=lambda: choose_conv2d(device=device, shape=shape),
        refusal=lambda _: None,
    )
    return _BACKENDS[chosen](x, weight, stride=stride, padding=padding)
