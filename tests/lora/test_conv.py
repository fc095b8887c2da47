"""Adapted convolutions: the layer against its formula, and in a whole UNet."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import lora
from draftx.layers import Conv2d
from draftx.models import map_layers

from ..helpers import assert_close, relative_error
from ..io.tiny import random_lora


def _layer(getkey, *, dtype=jnp.float32, scale=None, stride=1, padding=(1, 1)):
    base = Conv2d(3, 5, stride=stride, padding=padding, dtype=dtype, key=getkey())
    down, up = (jr.normal(getkey(), shape) / 2 for shape in base.factor_shapes(2))
    scale = None if scale is None else jnp.asarray(scale)
    return base, lora.with_lora(base, down, up, scale)


def test_shapes_of_the_factors(getkey):
    base, layer = _layer(getkey)
    assert base.factor_shapes(2) == layer.factor_shapes(2) == ((3, 3, 3, 2), (5, 2))
    assert layer.update().shape == base.weight.shape


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fresh_lora_changes_nothing(dtype, getkey):
    base = Conv2d(3, 5, dtype=dtype, key=getkey())
    down, up = base.factor_shapes(2)
    layer = lora.with_lora(base, jr.normal(getkey(), down), jnp.zeros(up))
    x = jr.normal(getkey(), (2, 4, 6, 3), dtype)
    np.testing.assert_array_equal(layer(x), base(x))


@pytest.mark.parametrize(
    ("scale", "stride", "padding"),
    [(None, 1, (1, 1)), (2.0, 2, (1, 1)), (0.5, 2, (0, 1))],
)
def test_equals_the_convolution_by_the_merged_weight(scale, stride, padding, getkey):
    base, layer = _layer(getkey, scale=scale, stride=stride, padding=padding)
    # One tap at a time: the matrix on channels after the convolution.
    update = np.stack([d @ np.asarray(layer.lora_up).T for d in layer.lora_down])
    update = (scale or 1.0) * update
    assert_close(layer.update(), jnp.asarray(update, jnp.float32))
    x = jr.normal(getkey(), (2, 6, 4, 3))
    merged = eqx.tree_at(lambda m: m.weight, base, base.weight + update)
    assert_close(layer(x), merged(x))
    assert_close(layer.merged()(x), merged(x))
    assert type(layer.merged()) is Conv2d


@pytest.mark.parametrize("scale", [None, 2.0])
def test_premerged_has_the_values_and_gradients_of_the_layer(scale, getkey):
    _, layer = _layer(getkey, scale=scale, stride=2)
    x, cotangent = jr.normal(getkey(), (2, 6, 4, 3)), jr.normal(getkey(), (2, 3, 2, 5))

    def loss(args, prepare):
        layer, x = args
        return jnp.sum(prepare(layer)(x) * cotangent)

    grad = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    expected = grad((layer, x), lambda layer: layer)
    assert_close(grad((layer, x), lora.premerge), expected)
    assert jnp.any(expected[1][0].lora_down != 0)


def test_bfloat16_weight_with_float32_lora(getkey):
    base, layer = _layer(getkey, dtype=jnp.bfloat16, scale=0.5)
    x = jr.normal(getkey(), (2, 4, 6, 3), jnp.bfloat16)
    wide = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)

    def loss(layer):
        return jnp.sum(layer(x.astype(layer.dtype)).astype(jnp.float32) ** 2)

    expected, expected_grads = eqx.filter_value_and_grad(loss)(wide(layer))
    for adapted in (layer, lora.premerge(layer)):
        assert adapted.dtype == adapted(x).dtype == jnp.bfloat16
        value, grads = eqx.filter_value_and_grad(loss)(adapted)
        assert grads.lora_up.dtype == grads.lora_down.dtype == jnp.float32
        assert float(value) == pytest.approx(float(expected), rel=0.02)
        for side in ("lora_down", "lora_up"):
            pair = getattr(grads, side), getattr(expected_grads, side)
            assert relative_error(*pair) < 0.02
    merged = lora.premerge(layer).base.weight
    exact = base.weight.astype(jnp.float32) + layer.update()
    np.testing.assert_array_equal(merged, exact.astype(jnp.bfloat16))


def test_sizes_are_those_of_the_base(getkey):
    base, layer = _layer(getkey, dtype=jnp.bfloat16)
    for wrapper in (layer, lora.premerge(layer)):
        names = ("in_channels", "out_channels", "kernel_size", "dtype", "layout")
        for name in names:
            assert getattr(wrapper, name) == getattr(base, name)
    assert lora.with_lora(layer, None, None) is base


@pytest.fixture(scope="module")
def adapted(short_pipeline):
    """An adapter on every layer that can have one."""
    return random_lora(short_pipeline, scale=0.2, mapped=map_layers)


def test_algebra_of_convolutions(short_pipeline, adapted):
    other = random_lora(short_pipeline, rank=1, targets="conv1", mapped=map_layers)
    updates = lambda p: {name: layer.update() for name, layer in lora.iter_lora(p)}
    a, b = updates(adapted), updates(other)
    mixed = updates(draftx.mix_lora([adapted, other], [0.7, -2.0]))
    half = updates(draftx.scale_lora(adapted, 0.5))
    name = "unet.down_blocks.0.resnets.0.conv1"
    assert mixed.keys() == half.keys() == a.keys()
    assert a[name].shape == (3, 3, 8, 8)
    assert_close(mixed[name], 0.7 * a[name] - 2.0 * b[name])
    assert_close(half[name], 0.5 * a[name])
    zero = updates(draftx.scale_lora(adapted, 0.0))
    assert not any(np.any(update) for update in zero.values())


def test_a_gradient_of_convolutions_has_their_names(adapted):
    state = draftx.lora_state_dict(adapted)
    name = "unet.down_blocks.0.resnets.0.conv1"
    assert state[f"{name}.lora.down.weight"].shape == (3, 3, 8, 2)
    assert state[f"{name}.lora.up.weight"].shape == (8, 2)
