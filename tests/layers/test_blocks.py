"""The feed-forward layer and the residual block, against their formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.layers import GEGLUFeedForward, ResnetBlock

from ..helpers import assert_close


def test_feed_forward_is_gated_by_its_second_half(getkey):
    layer = GEGLUFeedForward(3, expansion=2, key=getkey())
    x = jr.normal(getkey(), (2, 5, 3))
    weight = layer.proj_in.weight
    assert weight.shape == (12, 3)
    value, gate = x @ weight[:6].T, x @ weight[6:].T
    # The exact GELU: the one with tanh is 3e-4 away from it.
    gelu = gate * jax.scipy.stats.norm.cdf(gate)
    assert_close(layer(x), (value * gelu) @ layer.proj_out.weight.T)


_KWARGS = dict(num_groups=2, epsilon=1e-5)


def test_shortcut_only_where_channels_differ(getkey):
    same = ResnetBlock(4, 4, time_features=None, **_KWARGS, key=getkey())
    other = ResnetBlock(4, 6, time_features=None, **_KWARGS, key=getkey())
    x = jr.normal(getkey(), (2, 3, 5, 4))
    silent = lambda block: eqx.tree_at(
        lambda m: m.conv2.weight, block, replace_fn=jnp.zeros_like
    )
    assert same.conv_shortcut is None
    np.testing.assert_array_equal(silent(same)(x), x)
    assert_close(silent(other)(x), x @ other.conv_shortcut.weight.T)


def test_time_embedding_reaches_every_pixel_of_its_image(getkey):
    block = ResnetBlock(4, 6, time_features=8, **_KWARGS, key=getkey())
    x, emb = jr.normal(getkey(), (2, 3, 5, 4)), jr.normal(getkey(), (2, 8))
    call = eqx.filter_jit(lambda x, emb: block(x, block.time_shift(emb)))
    out, moved = call(x, emb), call(x, emb.at[1].add(1.0))
    np.testing.assert_array_equal(moved[0], out[0])
    assert jnp.all(moved[1] != out[1])


def test_channels_must_hold_whole_groups(getkey):
    with pytest.raises(ValueError, match="num_groups=2, channels=5"):
        ResnetBlock(4, 5, time_features=None, **_KWARGS, key=getkey())


def test_time_shift_is_given_if_and_only_if_there_is_one(getkey):
    timed = ResnetBlock(4, 4, time_features=8, **_KWARGS, key=getkey())
    timeless = ResnetBlock(4, 4, time_features=None, **_KWARGS, key=getkey())
    x = jnp.zeros((1, 2, 2, 4))
    for block, shift in ((timed, None), (timeless, jnp.zeros((1, 4)))):
        with pytest.raises(ValueError, match="`time_shift`"):
            block(x, shift)
