import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.layers import Linear

from ..helpers import assert_close


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 7, 5)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_matches_numpy(use_bias, shape, getkey):
    layer = Linear(5, 3, use_bias=use_bias, key=getkey())
    x, expected = jr.normal(getkey(), shape), 0.0
    if use_bias:
        layer = eqx.tree_at(lambda m: m.bias, layer, jr.normal(getkey(), (3,)))
        expected = np.asarray(layer.bias)
    expected = np.asarray(x) @ np.asarray(layer.weight).T + expected
    assert_close(layer(x), jnp.asarray(expected))


def test_vmap_is_batching(getkey):
    layer, x = Linear(5, 3, key=getkey()), jr.normal(getkey(), (7, 5))
    assert_close(jax.vmap(layer)(x), layer(x))


def test_wrong_size_is_caught_by_annotation(getkey):
    with pytest.raises(Exception, match="(?i)type-check"):
        Linear(5, 3, key=getkey())(jnp.zeros((2, 4)))
