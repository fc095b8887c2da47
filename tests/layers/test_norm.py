import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.kernels import group_norm_reference
from draftx.layers import GroupNorm, LayerNorm

from ..helpers import assert_close


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6,), jnp.float32), ((2, 3, 5, 6), jnp.float32), ((5, 6), jnp.bfloat16)],
)
def test_layer_norm_matches_numpy(shape, dtype, getkey):
    layer = LayerNorm(6, epsilon=1e-3, dtype=dtype)
    weight, bias = jr.normal(getkey(), (2, 6), dtype)
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, bias))
    x = 3 * jr.normal(getkey(), shape, dtype) + 2
    x64 = np.asarray(x, np.float64)
    normed = x64 - x64.mean(axis=-1, keepdims=True)
    normed = normed / np.sqrt(x64.var(axis=-1, keepdims=True) + 1e-3)
    expected = normed * np.asarray(weight, np.float64) + np.asarray(bias, np.float64)
    assert_close(layer(x), jnp.asarray(expected, dtype))


@pytest.mark.parametrize("silu", [False, True])
def test_group_norm_hands_on_its_settings(silu, getkey):
    layer = GroupNorm(6, num_groups=2, epsilon=0.5)
    weight, bias = jr.normal(getkey(), (2, 6))
    layer = eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, bias))
    x = jr.normal(getkey(), (2, 3, 5, 6))
    kwargs = dict(num_groups=2, epsilon=0.5, silu=silu)
    assert_close(layer(x, silu=silu), group_norm_reference(x, weight, bias, **kwargs))


def test_group_norm_error_text():
    text = "`num_groups` .*must divide .* num_groups=4, channels=6"
    with pytest.raises(ValueError, match=text):
        GroupNorm(6, num_groups=4, epsilon=1e-5)
