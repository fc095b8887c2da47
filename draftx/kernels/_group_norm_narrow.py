"""Group normalization of 16-bit activations, as an accelerator does it best: what is
needed in float32 is computed from 16 bits wherever it is needed, and never kept.

XLA makes one kernel of what two sums over the same activations need, if the sums are
taken over rows first, and one of each use of a cotangent, if the uses cannot be told to
be of the same thing. Otherwise it writes what they share to memory, twice as large as
what it was computed from. `benchmarks/README.md` has the figures.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from ._device import target_device
from ._dtypes import at_least_float32


# Sums over no more than this XLA puts into the kernels before and after, if they are
# sums of one array each.
_FEW_PIXELS = 64
_FEW_CHANNELS = 16


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
    channels, dtype = x.shape[-1], mean.dtype
    scale, shift = _affine(weight, bias, mean, rstd)
    inverse, offset = _spread(rstd, channels), _spread(mean * rstd, channels)
    weight32 = weight.astype(dtype)[None, None, None]

    def before(pair):
        """`x`, and the cotangent of what goes into SiLU."""
        x32, d_z = (array.astype(dtype) for array in pair)
        if silu:
            z = x32 * scale + shift
            gate = jax.nn.sigmoid(z)
            d_z = d_z * gate * (1 + z * (1 - gate))
        return x32, d_z

    # One for each of two sums and for the result.
    pairs = jax.lax.optimization_barrier(((x, d_out),) * 3)
    x32, d_z = before(pairs[0])
    with_x = d_z * (x32 * inverse - offset)
    d_weight = jnp.sum(with_x, axis=(0, 1, 2))
    _, d_z = before(pairs[1])
    d_bias = jnp.sum(d_z, axis=(0, 1, 2))
    mean_dx, mean_d = _group_means(
        with_x * weight32, d_z * weight32, num_groups, rows_first=True
    )
    x32, d_z = before(pairs[2])
    slope = mean_dx * rstd * rstd
    level = mean_d * rstd - mean * slope
    d_x = d_z * scale - x32 * _spread(slope, channels) - _spread(level, channels)
    return (
        d_x.astype(x.dtype),
        d_weight.astype(weight.dtype),
        d_bias.astype(bias.dtype),
    )


def _affine(weight, bias, mean, rstd):
    """The scale and the shift that normalize and map, one for each channel."""
    channels = weight.shape[0]
    scale = _spread(rstd, channels) * weight.astype(rstd.dtype)[None, None, None]
    shift = bias.astype(rstd.dtype)[None, None, None] - _spread(mean, channels) * scale
    return scale, shift


def _group_means(first, second, num_groups, *, rows_first=False):
    """Means over space and the channels of a group, `[batch, groups]`, of two arrays.

    Space is reduced first, with channels minor: no transposed copy is made.
    """
    _, height, width, channels = first.shape
    count = height * width * channels // num_groups
    arrays = [first, second]
    if height * width <= _FEW_PIXELS:
        rows = [jnp.sum(x, axis=2) for x in arrays]
        rows = [rearrange(x, "b h (g c) -> b h g c", g=num_groups) for x in rows]
        return [jnp.sum(x, axis=(1, 3)) / count for x in rows]
    if rows_first:
        arrays = [jnp.sum(x, axis=2, keepdims=True) for x in arrays]
    sums = _sums(arrays, (1, 2))
    sums = [rearrange(x, "b (g c) -> b g c", g=num_groups) for x in sums]
    if channels // num_groups <= _FEW_CHANNELS:
        return [jnp.sum(x, axis=2) / count for x in sums]
    return [x / count for x in _sums(sums, (2,))]


def _sums(arrays, axes):
    """Sums of two arrays: in one reduction, but on a TPU, which joins others better."""
    if target_device().platform == "tpu":
        return [jnp.sum(x, axis=axes) for x in arrays]
    zeros = (jnp.zeros((), arrays[0].dtype),) * 2
    add = lambda left, right: (left[0] + right[0], left[1] + right[1])
    return jax.lax.reduce(tuple(arrays), zeros, add, axes)


def _spread(stat, channels):
    """A number for each group, repeated to every channel."""
    return jnp.repeat(stat, channels // stat.shape[1], axis=1)[:, None, None, :]
