"""A convolution whose weight already contains its low-rank update."""

import functools as ft
from typing import NamedTuple, TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dtypes import at_least_float32
from ._api import conv2d
from ._reference import conv2d_reference, Input, Output, Weight


_Down: TypeAlias = Float[Array, "kernel_height kernel_width in_channels rank"]
_Up: TypeAlias = Float[Array, "out_channels rank"]
_Scale: TypeAlias = Float[Array, ""] | None


def lora_conv2d_reference(
    x: Input,
    weight: Weight,
    lora_down: _Down,
    lora_up: _Up,
    lora_scale: _Scale = None,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Output:
    """Convolves as `lora_conv2d` does: its definition, for tests.

    Here `weight` is the one *without* the update.

    **Arguments:**

    - `x`, `lora_down`, `lora_up`, `lora_scale`, `stride`, `padding`: As for
        `lora_conv2d`.
    """
    conv = ft.partial(conv2d_reference, stride=stride, padding=padding)
    update = conv(x, lora_down.astype(x.dtype))
    update = jnp.einsum("...r,or->...o", update, lora_up.astype(x.dtype))
    if lora_scale is not None:
        update = lora_scale.astype(x.dtype) * update
    return conv(x, weight.astype(x.dtype)) + update


def lora_conv2d(
    x: Input,
    weight: Weight,
    lora_down: _Down,
    lora_up: _Up,
    lora_scale: _Scale = None,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
) -> Output:
    r"""Convolves by an adapted weight, at the price of the frozen one.

    $$y = x * (W + s\,U D)$$

    where $U D$ is the convolution by $D$ followed by the matrix $U$. The sum in
    brackets is made by the caller, once for many calls.

    **Arguments:**

    - `x`: Images, channels last.
    - `weight`: $W + s\,U D$, with the gradient of $U$, $D$ and $s$ stopped.
    - `lora_down`, `lora_up`: $D$ and $U$, usually float32.
    - `lora_scale`: $s$; `None` is 1.
    - `stride`: Of both spatial axes.
    - `padding`: Zeros before and after, the same for both spatial axes.

    **Returns:**

    $y$, computed in the dtype of `x`.

    **Backward:** saves the arguments and nothing else. Cotangents of `lora_down`,
    `lora_up` and `lora_scale` are those of the formula, that of `weight` is the one of
    $W$; that of `lora_down` is rounded once to the dtype of `x`.

    !!! danger

        That `weight` contains the update is not checked. A `weight` which lets the
        gradient of $U$ or $D$ through counts it twice.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), equation 3.
    """
    return _lora_conv(x, weight, lora_down, lora_up, lora_scale, stride, padding)


class _Residuals(NamedTuple):
    x: Array
    weight: Array
    lora_down: Array
    lora_up: Array
    lora_scale: Array | None


@ft.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _lora_conv(x, weight, lora_down, lora_up, lora_scale, stride, padding):
    del lora_down, lora_up, lora_scale  # Already inside `weight`.
    return conv2d(x, weight.astype(x.dtype), stride=stride, padding=padding)


def _fwd(x, weight, lora_down, lora_up, lora_scale, stride, padding):
    args = _Residuals(x, weight, lora_down, lora_up, lora_scale)
    return _lora_conv(*args, stride, padding), args


def _bwd(stride, padding, residuals, d_out):
    x, lora_down, lora_up = residuals.x, residuals.lora_down, residuals.lora_up
    lora_scale = residuals.lora_scale
    dtype = at_least_float32(x.dtype)
    conv = ft.partial(conv2d, stride=stride, padding=padding)
    # What is not asked for, values and the gradient of a frozen weight among it, is
    # dead code: under `jax.jit` nothing of it is left.
    _, pull = jax.vjp(lambda x, w: conv(x, w.astype(x.dtype)), x, residuals.weight)
    d_x, d_weight = pull(d_out)
    # Only as many channels as the rank, between the two factors.
    x_down, pull = jax.vjp(lambda w: conv(x, w), lora_down.astype(x.dtype))
    d_down = jnp.einsum(
        "...o,or->...r", d_out, lora_up.astype(x.dtype), preferred_element_type=dtype
    )
    (d_lora_down,) = pull(d_down.astype(x.dtype))
    axes = (0, 1, 2)
    d_lora_up = jnp.tensordot(
        x_down, d_out, axes=(axes, axes), preferred_element_type=dtype
    )  # Transposed: a CPU transposes the smaller one.
    d_lora_down, d_scale = d_lora_down.astype(dtype), None
    if lora_scale is not None:
        scale = lora_scale.astype(dtype)
        d_lora_up, d_lora_down = scale * d_lora_up, scale * d_lora_down
        d_scale = jnp.sum(d_down * x_down.astype(dtype)).astype(lora_scale.dtype)
    # Nothing else waits for the gradient of the factors, so that a compiler puts it
    # off to the end of the program and keeps `x` and `d_out` of every layer until then.
    d_x, d_lora_down, d_lora_up = lax.optimization_barrier(
        (d_x, d_lora_down, d_lora_up)
    )
    return (
        d_x,
        d_weight,
        d_lora_down.astype(lora_down.dtype),
        d_lora_up.T.astype(lora_up.dtype),
        d_scale,
    )


_lora_conv.defvjp(_fwd, _bwd)
