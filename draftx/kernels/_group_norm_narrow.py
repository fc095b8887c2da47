"""Group normalization of 16-bit activations, as an accelerator does it best: what is
needed in float32 is computed from 16 bits wherever it is needed, and never kept.

XLA makes one kernel of what two sums over the same activations need, if the sums are
taken over rows first, and one of each use of a cotangent, if the uses cannot be told to
be of the same thing. Otherwise it writes what they share to memory, twice as large as
what it was computed from. `benchmarks/README.md` has the figures.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array

from ._dtypes import at_least_float32


def forward(x, weight, bias, num_groups, epsilon, silu):
    """Normalizes; also gives mean and reciprocal deviation, `[batch, groups]`, float32.

    `x` is read once for both: float32 has so much more precision than 16 bits that the
    difference of two mean squares loses less than the rounding of `x` did.
    """
    x32 = x.astype(at_least_float32(x.dtype))
    mean, square = _group_means(x32, x32 * x32, num_groups)
    rstd = jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0) + epsilon)
    scale, shift = _affine(weight, bias, mean, rstd)
    z = x32 * scale + shift
    return (jax.nn.silu(z) if silu else z).astype(x.dtype), mean, rstd


def backward(num_groups, silu, x, weight, bias, mean, rstd, d_out):
    """Cotangents of `x`, `weight` and `bias`."""
    given = _Given(x, d_out, weight, bias, mean, rstd)
    # One for each of two sums and for the result.
    copies = jax.lax.optimization_barrier((given,) * 3)
    (first, x_hat), (second, _), (third, _) = (_before(copy, silu) for copy in copies)
    d_weight = jnp.sum(first * x_hat, axis=(0, 1, 2))
    d_bias = jnp.sum(second, axis=(0, 1, 2))
    weight32 = weight.astype(mean.dtype)[None, None, None]
    mean_dx, mean_d = _group_means(
        first * weight32 * x_hat, second * weight32, num_groups
    )
    scale, _ = _affine(weight, bias, mean, rstd)
    slope = mean_dx * rstd * rstd
    offset = mean_d * rstd - mean * slope
    channels = x.shape[-1]
    d_x = third * scale - x.astype(mean.dtype) * _spread(slope, channels)
    return (
        (d_x - _spread(offset, channels)).astype(x.dtype),
        d_weight.astype(weight.dtype),
        d_bias.astype(bias.dtype),
    )


class _Given(NamedTuple):
    x: Array
    d_out: Array
    weight: Array
    bias: Array
    mean: Array
    rstd: Array


def _before(given, silu):
    """The cotangent of what goes into SiLU, and the normalized input."""
    mean, rstd, channels = given.mean, given.rstd, given.x.shape[-1]
    x32, d_z = given.x.astype(mean.dtype), given.d_out.astype(mean.dtype)
    x_hat = x32 * _spread(rstd, channels) - _spread(mean * rstd, channels)
    if silu:
        scale, shift = _affine(given.weight, given.bias, mean, rstd)
        z = x32 * scale + shift
        gate = jax.nn.sigmoid(z)
        d_z = d_z * gate * (1 + z * (1 - gate))
    return d_z, x_hat


def _affine(weight, bias, mean, rstd):
    """The scale and the shift that normalize and map, one for each channel."""
    channels = weight.shape[0]
    scale = _spread(rstd, channels) * weight.astype(rstd.dtype)[None, None, None]
    shift = bias.astype(rstd.dtype)[None, None, None] - _spread(mean, channels) * scale
    return scale, shift


def _group_means(first, second, num_groups):
    """Means over space and the channels of a group, `[batch, groups]`, of two arrays.

    Rows are summed first, with channels minor, then their sums: two kernels for both.
    """
    count = math.prod(first.shape[1:]) // num_groups
    rows = [jnp.sum(x, axis=2) for x in (first, second)]
    rows = [rearrange(x, "b h (g c) -> b h g c", g=num_groups) for x in rows]
    zeros = (jnp.zeros((), rows[0].dtype),) * 2
    add = lambda left, right: (left[0] + right[0], left[1] + right[1])
    return [x / count for x in jax.lax.reduce(tuple(rows), zeros, add, (1, 3))]


def _spread(stat, channels):
    """A number for each group, repeated to every channel."""
    return jnp.repeat(stat, channels // stat.shape[1], axis=1)[:, None, None, :]
