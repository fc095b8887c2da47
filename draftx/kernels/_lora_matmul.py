"""A linear map whose weight already contains its low-rank update."""

import functools as ft
from typing import NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._dtypes import at_least_float32
from ._matmul import matmul
from ._narrow import widened


_Input = Float[Array, "... in_features"]
_Output = Float[Array, "... out_features"]
_Weight = Float[Array, "out_features ... in_features"]
_Down = Float[Array, "rank ... in_features"]
_Up = Float[Array, "out_features rank"]
_Scale = Float[Array, ""] | None
_Cast = tuple[_Down, _Up] | None


def lora_matmul_reference(
    x: _Input, weight: _Weight, lora_down: _Down, lora_up: _Up, lora_scale: _Scale
) -> _Output:
    """Maps as `lora_matmul` does: its definition, for tests.

    Here `weight` is the one *without* the update.

    **Arguments:**

    - `x`, `lora_down`, `lora_up`, `lora_scale`: As for `lora_matmul`.
    """
    down = matmul(x, lora_down.astype(x.dtype))
    update = matmul(down, lora_up.astype(x.dtype))
    if lora_scale is not None:
        update = lora_scale.astype(x.dtype) * update
    return matmul(x, weight.astype(x.dtype)) + update


def _product(x, weight):
    return widened(matmul, x, weight.astype(x.dtype))


def _sum_of_outer(left, right, dtype):
    """Sum of outer products over every leading axis, with none of them reshaped.

    A CPU transposes `left` first: it should be the smaller one.
    """
    axes = tuple(range(left.ndim - 1))
    return jnp.tensordot(left, right, axes=(axes, axes), preferred_element_type=dtype)


class _Residuals(NamedTuple):
    x: Array
    weight: Array
    lora_down: Array
    lora_up: Array
    lora_scale: Array | None
    cast: tuple[Array, Array]


@jax.custom_vjp
def _lora_matmul(x, weight, lora_down, lora_up, lora_scale, cast):
    del lora_down, lora_up, lora_scale, cast  # Already inside `weight`.
    return _product(x, weight)


def _fwd(x, weight, lora_down, lora_up, lora_scale, cast):
    residuals = _Residuals(x, weight, lora_down, lora_up, lora_scale, cast)
    return _product(x, weight), residuals


def _bwd(residuals, d_out):
    x, weight, lora_scale = residuals.x, residuals.weight, residuals.lora_scale
    lora_down, lora_up = residuals.lora_down, residuals.lora_up
    dtype = at_least_float32(x.dtype)
    # The skinny products read all of `x` and `d_out`, so those stay as they are, and
    # what is summed over tokens is summed in at least float32.
    skinny = lambda spec, y, m: jnp.einsum(
        spec, y, m.astype(x.dtype), preferred_element_type=dtype
    )
    inputs = "i" if weight.ndim == 2 else "nh"
    x_down = skinny(f"...{inputs},r{inputs}->...r", x, residuals.cast[0])
    d_down = skinny("...o,or->...r", d_out, residuals.cast[1])
    d_lora_up = _sum_of_outer(x_down.astype(x.dtype), d_out, dtype)  # Transposed.
    d_lora_down = _sum_of_outer(d_down.astype(x.dtype), x, dtype)
    d_scale = None
    if lora_scale is not None:
        scale = lora_scale.astype(dtype)
        d_lora_up, d_lora_down = scale * d_lora_up, scale * d_lora_down
        d_scale = jnp.sum(d_down * x_down).astype(lora_scale.dtype)
    # As large as a forward pass, and dead code where the base weight is frozen: under
    # `jax.jit` nothing of it is left.
    d_weight = _sum_of_outer(d_out, x, dtype)
    transposed = ft.partial(jnp.einsum, f"...o,o{inputs}->...{inputs}")
    d_x = widened(transposed, d_out, weight.astype(x.dtype))
    # Nothing else waits for the gradient of the factors, so that a compiler puts it
    # off to the end of the program and keeps `x` and `d_out` of every layer until then.
    d_x, d_lora_down, d_lora_up = lax.optimization_barrier(
        (d_x, d_lora_down, d_lora_up)
    )
    return (
        d_x,
        d_weight.astype(weight.dtype),
        d_lora_down.astype(lora_down.dtype),
        d_lora_up.T.astype(lora_up.dtype),
        d_scale,
        None,
    )


_lora_matmul.defvjp(_fwd, _bwd)


def lora_matmul(
    x: _Input,
    weight: _Weight,
    lora_down: _Down,
    lora_up: _Up,
    lora_scale: _Scale = None,
    *,
    cast: _Cast = None,
) -> _Output:
    r"""Maps `[..., *inputs]` by an adapted weight, at the price of the frozen one.

    $$y = x\,(W + s\,U D)^\top$$

    The sum in brackets is made by the caller, once for many calls. The forward pass is
    then one matrix product, where $x W^\top + s\,(x D^\top)\,U^\top$ reads `x` and
    writes `y` twice.

    **Arguments:**

    - `x`: Activations; every leading axis is a batch axis. `inputs` are features, or
        heads and what is in each.
    - `weight`: $W + s\,U D$, with the gradient of $U$, $D$ and $s$ stopped.
    - `lora_down`, `lora_up`: $D$ and $U$, usually float32.
    - `lora_scale`: $s$; `None` is 1.
    - `cast`: `lora_down` and `lora_up` in the dtype of `x`, made once for many calls;
        no gradient goes through them. `None` casts them where they are needed.

    **Returns:**

    $y$, computed in the dtype of `x`.

    **Backward:** saves the arguments and nothing else. Cotangents of `lora_down`,
    `lora_up` and `lora_scale` are those of the formula, that of `weight` is the one of
    $W$; the skinny products accumulate in at least float32.

    !!! danger

        That `weight` contains the update is not checked. A `weight` which lets the
        gradient of $U$ or $D$ through counts it twice.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), equation 3.
    """
    cast = (lora_down, lora_up) if cast is None else cast
    return _lora_matmul(x, weight, lora_down, lora_up, lora_scale, cast)
