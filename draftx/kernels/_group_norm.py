"""Group normalization, optionally followed by SiLU, as one op with one VJP."""

import functools as ft
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from jaxtyping import Array, Float

from . import _group_norm_narrow as narrow
from ._dtypes import at_least_float32


_Activations = Float[Array, "batch height width channels"]
_Param = Float[Array, " channels"]


def group_norm_reference(
    x: _Activations,
    weight: _Param,
    bias: _Param,
    *,
    num_groups: int,
    epsilon: float,
    silu: bool = False,
) -> _Activations:
    """Normalizes as `group_norm` does: its definition, for tests. Never optimized.

    **Arguments:**

    - `x`, `weight`, `bias`, `num_groups`, `epsilon`, `silu`: As for `group_norm`.
    """
    dtype = at_least_float32(x.dtype)
    g = rearrange(x.astype(dtype), "b h w (g c) -> b g (h w c)", g=num_groups)
    mean = jnp.mean(g, axis=-1, keepdims=True)
    var = jnp.var(g, axis=-1, keepdims=True)
    normed = (g - mean) * jax.lax.rsqrt(var + epsilon)
    y = rearrange(normed, "b g (h w c) -> b h w (g c)", h=x.shape[1], w=x.shape[2])
    y = (
        y * weight.astype(dtype)[None, None, None]
        + bias.astype(dtype)[None, None, None]
    )
    return (jax.nn.silu(y) if silu else y).astype(x.dtype)


def _group_mean(x, num_groups):
    """Mean over space and the channels of a group, repeated to every channel.

    Space is reduced first, with channels minor: no transposed copy of `x` is made.
    """
    per_channel = jnp.mean(x, axis=(1, 2))
    per_group = reduce(per_channel, "b (g c) -> b g", "mean", g=num_groups)
    return per_group


def _spread(stat, channels):
    return jnp.repeat(stat, channels // stat.shape[1], axis=1)[:, None, None, :]


def _forward(x, weight, bias, num_groups, epsilon, silu):
    dtype = at_least_float32(x.dtype)
    if x.dtype != dtype:
        return narrow.forward(x, weight, bias, num_groups, epsilon, silu)
    channels = x.shape[-1]
    x32 = x.astype(dtype)
    mean = _group_mean(x32, num_groups)
    centered = x32 - _spread(mean, channels)
    rstd = jax.lax.rsqrt(_group_mean(centered * centered, num_groups) + epsilon)
    z = centered * (_spread(rstd, channels) * weight.astype(dtype)[None, None, None])
    z = z + bias.astype(dtype)[None, None, None]
    return (jax.nn.silu(z) if silu else z).astype(x.dtype), mean, rstd


class _Residuals(NamedTuple):
    x: Array
    weight: Array
    bias: Array
    mean: Array
    rstd: Array


@ft.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _group_norm(x, weight, bias, num_groups, epsilon, silu):
    return _forward(x, weight, bias, num_groups, epsilon, silu)[0]


def _fwd(x, weight, bias, num_groups, epsilon, silu):
    out, mean, rstd = _forward(x, weight, bias, num_groups, epsilon, silu)
    return out, _Residuals(x, weight, bias, mean, rstd)


def _bwd(num_groups, epsilon, silu, residuals, d_out):
    del epsilon  # Already inside `rstd`.
    x, weight, bias = residuals.x, residuals.weight, residuals.bias
    # What follows from the residuals alone must wait for the cotangent: computed ahead
    # of it, every normalized input of the network would be kept at the same time.
    mean, rstd, d_out = jax.lax.optimization_barrier(
        (residuals.mean, residuals.rstd, d_out)
    )
    if x.dtype != mean.dtype:
        return narrow.backward(num_groups, silu, x, weight, bias, mean, rstd, d_out)
    dtype, channels = mean.dtype, x.shape[-1]
    weight32 = weight.astype(dtype)[None, None, None]
    rstd = _spread(rstd, channels)
    x_hat = (x.astype(dtype) - _spread(mean, channels)) * rstd
    d_z = d_out.astype(dtype)
    if silu:
        z = x_hat * weight32 + bias.astype(dtype)[None, None, None]
        gate = jax.nn.sigmoid(z)
        d_z = d_z * gate * (1 + z * (1 - gate))
    d_weight = jnp.sum(d_z * x_hat, axis=(0, 1, 2))
    d_bias = jnp.sum(d_z, axis=(0, 1, 2))
    d_hat = d_z * weight32
    mean_d = _spread(_group_mean(d_hat, num_groups), channels)
    mean_dx = _spread(_group_mean(d_hat * x_hat, num_groups), channels)
    d_x = (d_hat - mean_d - x_hat * mean_dx) * rstd
    return (
        d_x.astype(x.dtype),
        d_weight.astype(weight.dtype),
        d_bias.astype(bias.dtype),
    )


_group_norm.defvjp(_fwd, _bwd)


def group_norm(
    x: _Activations,
    weight: _Param,
    bias: _Param,
    *,
    num_groups: int,
    epsilon: float,
    silu: bool = False,
) -> _Activations:
    r"""Normalizes groups of channels, `[batch, height, width, channels]`.

    $$y = \gamma\,\frac{x - \mu_g}{\sqrt{\sigma_g^2 + \varepsilon}} + \beta$$

    **Arguments:**

    - `x`: Activations, channels last.
    - `weight`, `bias`: $\gamma$ and $\beta$.
    - `num_groups`: Must divide `channels`.
    - `epsilon`: Added to the variance.
    - `silu`: Whether to apply SiLU to the result.

    **Returns:**

    An array like `x`. Statistics are computed in at least float32.

    **Backward:** saves `x`, `weight`, `bias` and two scalars per image and group.

    ??? cite

        [Group Normalization](https://arxiv.org/abs/1803.08494)
    """
    channels = x.shape[-1]
    if channels % num_groups != 0:
        raise ValueError(
            "`num_groups` must divide the number of channels; got "
            f"num_groups={num_groups}, channels={channels}."
        )
    return _group_norm(x, weight, bias, num_groups, epsilon, silu)
