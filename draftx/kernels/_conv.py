"""Two-dimensional convolution, with the gradients that a CPU is fast at."""

import functools as ft

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._dtypes import at_least_float32


_Input = Float[Array, "batch height width in_channels"]
_Weight = Float[Array, "kernel_height kernel_width in_channels out_channels"]
_Output = Float[Array, "batch out_height out_width out_channels"]

# Up to so many pixels of output, XLA's convolution on a CPU is slower than a matrix
# product of patches: by a factor of 24 for 2x2, not at all for 4x4.
_FEW_PIXELS = 9


def conv2d_reference(
    x: _Input, weight: _Weight, *, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> _Output:
    """The definition of `conv2d`, and what it is on anything but a CPU."""
    return lax.conv_general_dilated(
        x,
        weight,
        window_strides=(stride, stride),
        padding=(padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv2d(
    x: _Input, weight: _Weight, *, stride: int = 1, padding: tuple[int, int] = (0, 0)
) -> _Output:
    r"""Convolution (cross-correlation) of channels-last images.

    $$y_{b,i,j,o} = \sum_{u,v,c} w_{u,v,c,o}\, x_{b,\,si+u-p,\,sj+v-p,\,c}$$

    **Arguments:**

    - `x`: Images, channels last.
    - `weight`: $w$.
    - `stride`: $s$, of both spatial axes.
    - `padding`: Zeros before ($p$) and after, the same for both spatial axes.

    **Returns:**

    $y$, in the dtype of `x`.

    **Backward:** saves the weight if the gradient of `x` is wanted, and `x` if that of
    the weight is. XLA's CPU backend computes the gradient of `x` with a mirrored
    window, which none of its fast paths takes (1.6 instead of 100 GFLOP/s for 16x16
    pixels and 32 channels); here the weight is mirrored, and the convolution is a plain
    one.
    """
    if jax.default_backend() != "cpu":
        return conv2d_reference(x, weight, stride=stride, padding=padding)
    sizes = (
        (x.shape[axis] + sum(padding) - weight.shape[axis - 1]) // stride + 1
        for axis in (1, 2)
    )
    height, width = sizes
    if height * width <= _FEW_PIXELS:
        return _by_patches(x, weight, stride, padding)
    return _conv(x, weight, stride, padding)


def _windows(x, weight, stride, padding):
    """What each element of the window sees of the padded `x`, row by row."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = weight.shape[:2]
    height = (x.shape[1] - rows) // stride + 1
    width = (x.shape[2] - columns) // stride + 1
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (
                x.shape[0],
                i + stride * (height - 1) + 1,
                j + stride * (width - 1) + 1,
                x.shape[3],
            ),
            (1, stride, stride, 1),
        )
        for i in range(rows)
        for j in range(columns)
    ]


def _by_patches(x, weight, stride, padding):
    patches = jnp.concatenate(_windows(x, weight, stride, padding), axis=-1)
    return patches @ weight.reshape(-1, weight.shape[-1])


@ft.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, weight, stride, padding):
    return conv2d_reference(x, weight, stride=stride, padding=padding)


def _fwd(x, weight, stride, padding):
    out = _conv(x.value, weight.value, stride, padding)
    # The weight also stands for its shape and dtype, `x` for its own.
    shape = jax.ShapeDtypeStruct(x.value.shape, x.value.dtype)
    return out, (
        weight.value,
        x.value if weight.perturbed else None,
        _Static(shape, x.perturbed),
    )


@jax.tree_util.register_static
class _Static:
    """What the backward pass knows of `x` without being given it."""

    def __init__(self, shape, is_wanted):
        self.shape, self.is_wanted = shape, is_wanted


def _bwd(stride, padding, residuals, d_out):
    weight, x, static = residuals
    d_x = d_weight = None
    if static.is_wanted:
        d_x = _input_gradient(weight, static.shape.shape, stride, padding, d_out)
    if x is not None:
        windows = _windows(x, weight, stride, padding)
        products = [
            jnp.einsum(
                "bhwi,bhwo->io",
                window,
                d_out,
                preferred_element_type=at_least_float32(x.dtype),
            )
            for window in windows
        ]
        d_weight = jnp.stack(products).reshape(weight.shape).astype(weight.dtype)
    return d_x, d_weight


def _input_gradient(weight, shape, stride, padding, d_out):
    """The sum over all windows that saw a pixel: a convolution by the mirrored weight,
    of the cotangent with its strides filled up with zeros."""
    mirrored = jnp.swapaxes(weight[::-1, ::-1], 2, 3)
    borders = []
    for axis in (1, 2):
        size = weight.shape[axis - 1]
        before = size - 1 - padding[0]
        spread = stride * (d_out.shape[axis] - 1) + 1
        borders.append((before, shape[axis] + size - 1 - before - spread, stride - 1))
    zero = jnp.zeros((), d_out.dtype)
    spread = lax.pad(d_out, zero, ((0, 0, 0), *borders, (0, 0, 0)))
    return conv2d_reference(spread, mirrored)


_conv.defvjp(_fwd, _bwd, symbolic_zeros=True)
