import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.kernels import upsample_nearest
from draftx.layers import Conv2d

from ..helpers import assert_close


def _definition(x, weight, bias, stride, padding):
    """One output pixel at a time, float64."""
    x, weight, bias = (np.asarray(a, np.float64) for a in (x, weight, bias))
    x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    size, _, _, outputs = weight.shape
    height = (x.shape[1] - size) // stride + 1
    width = (x.shape[2] - size) // stride + 1
    out = np.zeros((x.shape[0], height, width, outputs))
    for i in range(height):
        for j in range(width):
            rows = slice(i * stride, i * stride + size)
            columns = slice(j * stride, j * stride + size)
            patch = x[:, rows, columns]
            out[:, i, j] = np.einsum("bhwi,hwio->bo", patch, weight) + bias
    return out


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dtype"),
    [
        (3, 1, (1, 1), jnp.bfloat16),
        (3, 2, (1, 1), jnp.float32),
        (3, 2, (0, 1), jnp.float32),
        (1, 1, (0, 0), jnp.float32),
    ],
)
def test_matches_definition(kernel_size, stride, padding, dtype, getkey):
    kwargs = dict(kernel_size=kernel_size, stride=stride, padding=padding, dtype=dtype)
    layer = Conv2d(2, 5, **kwargs, key=getkey())
    layer = eqx.tree_at(lambda m: m.bias, layer, jr.normal(getkey(), (5,), dtype))
    x = jr.normal(getkey(), (3, 6, 4, 2), dtype)
    expected = _definition(x, layer.weight, layer.bias, stride, padding)
    assert_close(eqx.filter_jit(layer)(x), jnp.asarray(expected, dtype))


def test_wrong_channels_are_caught_by_annotation(getkey):
    with pytest.raises(Exception, match="(?i)type-check"):
        Conv2d(2, 5, key=getkey())(jnp.zeros((1, 4, 4, 3)))


def test_upsampling_repeats_pixels(getkey):
    x = jr.normal(getkey(), (2, 3, 5, 4))
    expected = np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2)
    np.testing.assert_array_equal(upsample_nearest(x), expected)
