"""Layer normalization as one op with one VJP."""

import functools as ft
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._device import target_device
from ._dtypes import at_least_float32


_Activations = Float[Array, "*batch features"]
_Param = Float[Array, " features"]


def layer_norm_reference(
    x: _Activations, weight: _Param, bias: _Param, *, epsilon: float
) -> _Activations:
    """Normalizes as `layer_norm` does: its definition, for tests. Never optimized.

    **Arguments:**

    - `x`, `weight`, `bias`, `epsilon`: As for `layer_norm`.
    """
    dtype = at_least_float32(x.dtype)
    x32 = x.astype(dtype)
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    var = jnp.var(x32, axis=-1, keepdims=True)
    normed = (x32 - mean) * jax.lax.rsqrt(var + epsilon)
    y = normed * _as_row(weight, x32) + _as_row(bias, x32)
    return y.astype(x.dtype)


def _as_row(param, like):
    return jnp.expand_dims(param.astype(like.dtype), tuple(range(like.ndim - 1)))


def _forward(x, weight, bias, epsilon):
    x32 = x.astype(at_least_float32(x.dtype))
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    centered = x32 - mean
    if x.dtype != x32.dtype and target_device().platform == "tpu":
        # There this is one pass over `x`, where a GPU makes one of both sums below.
        # Float32 has so much more precision than 16 bits that the difference loses less
        # than the rounding of `x` did.
        square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
        var = jnp.maximum(square - mean * mean, 0)
    else:
        var = jnp.mean(centered * centered, axis=-1, keepdims=True)
    rstd = jax.lax.rsqrt(var + epsilon)
    y = centered * rstd * _as_row(weight, x32) + _as_row(bias, x32)
    return y.astype(x.dtype), mean, rstd


class _Residuals(NamedTuple):
    x: Array
    weight: Array
    bias: Array
    mean: Array
    rstd: Array


@ft.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x, weight, bias, epsilon):
    return _forward(x, weight, bias, epsilon)[0]


def _fwd(x, weight, bias, epsilon):
    out, mean, rstd = _forward(x, weight, bias, epsilon)
    return out, _Residuals(x, weight, bias, mean, rstd)


def _bwd(epsilon, residuals, d_out):
    del epsilon  # Already inside `rstd`.
    x, weight, bias = residuals.x, residuals.weight, residuals.bias
    mean, rstd = residuals.mean, residuals.rstd
    dtype, rows = mean.dtype, tuple(range(x.ndim - 1))
    x_hat = (x.astype(dtype) - mean) * rstd
    d_out = d_out.astype(dtype)
    d_weight = jnp.sum(d_out * x_hat, axis=rows)
    d_bias = jnp.sum(d_out, axis=rows)
    d_hat = d_out * _as_row(weight, mean)
    mean_d = jnp.mean(d_hat, axis=-1, keepdims=True)
    mean_dx = jnp.mean(d_hat * x_hat, axis=-1, keepdims=True)
    d_x = (d_hat - mean_d - x_hat * mean_dx) * rstd
    return (
        d_x.astype(x.dtype),
        d_weight.astype(weight.dtype),
        d_bias.astype(bias.dtype),
    )


_layer_norm.defvjp(_fwd, _bwd)


def layer_norm(
    x: _Activations, weight: _Param, bias: _Param, *, epsilon: float
) -> _Activations:
    r"""Normalizes the last axis, `[..., features]`.

    $$y = \gamma\,\frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta$$

    **Arguments:**

    - `x`: Activations; every leading axis is a batch axis.
    - `weight`, `bias`: $\gamma$ and $\beta$.
    - `epsilon`: Added to the variance.

    **Returns:**

    An array like `x`. Statistics are computed in at least float32.

    **Backward:** saves `x`, `weight`, `bias` and two scalars a row.

    ??? cite

        [Layer Normalization](https://arxiv.org/abs/1607.06450)
    """
    return _layer_norm(x, weight, bias, epsilon)
