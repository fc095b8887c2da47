"""Layers with an adapter, against their formulas."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx import lora
from draftx.layers import Linear

from ..helpers import assert_close


def _adapt(layer, getkey, *, rank=2, scale=None, up=None):
    """`layer` with an adapter, as fine-tuning adds it: `lora_up` zero unless given."""
    down = jr.normal(getkey(), (rank, layer.in_features))
    up = jnp.zeros((layer.out_features, rank)) if up is None else up
    scale = None if scale is None else jnp.asarray(scale, jnp.float32)
    return lora.with_lora(layer, down, up, scale)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fresh_lora_changes_nothing(dtype, getkey):
    plain = Linear(5, 3, dtype=dtype, key=getkey())
    adapted = _adapt(plain, getkey, scale=2.0)
    x = jr.normal(getkey(), (2, 7, 5), dtype)
    # Not only close: fine-tuning starts at the very images of the base model.
    np.testing.assert_array_equal(adapted(x), plain(x))


@pytest.mark.parametrize("scale", [None, 2.0])
def test_lora_equals_merged_weight(scale, getkey):
    up = jr.normal(getkey(), (3, 2))
    layer = _adapt(Linear(5, 3, key=getkey()), getkey, scale=scale, up=up)
    x = jr.normal(getkey(), (7, 5))
    update = (scale or 1.0) * np.asarray(up) @ np.asarray(layer.lora_down)
    expected = np.asarray(x) @ (np.asarray(layer.base.weight) + update).T
    assert_close(layer(x), jnp.asarray(expected + np.asarray(layer.base.bias)))
    assert_close(layer.update(), jnp.asarray(update))


def test_fresh_gradient_reaches_up_only(getkey):
    layer = _adapt(Linear(5, 3, key=getkey()), getkey)
    x = jr.normal(getkey(), (7, 5))
    grads = eqx.filter_grad(lambda m: jnp.sum(m(x) ** 2))(layer)
    assert jnp.any(grads.lora_up != 0)
    assert jnp.all(grads.lora_down == 0)  # Because `lora_up` starts at zero.


def test_bfloat16_weight_with_float32_lora(getkey):
    up = jr.normal(getkey(), (3, 2))
    plain = Linear(5, 3, dtype=jnp.bfloat16, key=getkey())
    layer = _adapt(plain, getkey, scale=0.5, up=up)
    x = jr.normal(getkey(), (7, 5), jnp.bfloat16)
    out, grads = eqx.filter_value_and_grad(
        lambda m: jnp.sum(m(x).astype(jnp.float32) ** 2)
    )(layer)
    assert layer(x).dtype == jnp.bfloat16
    assert grads.lora_up.dtype == grads.lora_down.dtype == jnp.float32
    assert grads.base.weight.dtype == jnp.bfloat16
    assert jnp.isfinite(out)
    merged = np.asarray(plain.weight, np.float32) + np.asarray(layer.update())
    expected = np.asarray(x, np.float32) @ merged.T
    assert_close(layer(x), jnp.asarray(expected, jnp.bfloat16), scale=3.0)


def test_half_an_adapter_is_refused(getkey):
    layer = Linear(5, 3, key=getkey())
    with pytest.raises(
        ValueError, match="`down` and `up` must be both .*None and an a"
    ):
        lora.with_lora(layer, None, jnp.zeros((3, 2)))


def test_an_adapter_is_replaced_and_taken_off(getkey):
    layer = Linear(5, 3, key=getkey())
    once = _adapt(layer, getkey)
    twice = _adapt(once, getkey, rank=1)
    assert isinstance(twice, lora.LoRALinear)
    assert twice.base is layer
    assert twice.lora_down.shape == (1, 5)
    assert lora.with_lora(twice, None, None) is layer


def test_a_premerged_layer_is_given_no_adapter(getkey):
    premerged = lora.premerge(_adapt(Linear(5, 3, key=getkey()), getkey))
    with pytest.raises(ValueError, match="`layer` must be .*got a PremergedLinear"):
        lora.with_lora(premerged, None, None)


@pytest.mark.parametrize("is_conv", [True, False])
def test_sizes_are_those_of_the_base(is_conv, getkey):
    layer = Linear(5, 3, is_conv=is_conv, dtype=jnp.bfloat16, key=getkey())
    adapted = _adapt(layer, getkey)
    for wrapper in (adapted, lora.premerge(adapted)):
        for name in ("in_features", "out_features", "is_conv", "dtype"):
            assert getattr(wrapper, name) == getattr(layer, name)


@pytest.mark.parametrize("scale", [None, 2.0])
def test_premerged_has_the_values_and_gradients_of_the_layer(scale, getkey):
    up = jr.normal(getkey(), (3, 2))
    layer = _adapt(Linear(5, 3, key=getkey()), getkey, scale=scale, up=up)
    x, cotangent = jr.normal(getkey(), (2, 7, 5)), jr.normal(getkey(), (2, 7, 3))

    def loss(layer, x, prepare):
        return jnp.sum(prepare(layer)(x) * cotangent)

    grad = eqx.filter_jit(eqx.filter_value_and_grad(lambda a, f: loss(*a, f)))
    expected = grad((layer, x), lambda layer: layer)
    actual = grad((layer, x), lora.premerge)
    assert_close(actual, expected)


def test_premerged_without_adapter_is_the_layer(getkey):
    layer = Linear(5, 3, key=getkey())
    assert lora.premerge(layer) is layer


def test_premerged_rounds_once_to_the_dtype_of_the_weight(getkey):
    up = 0.1 * jr.normal(getkey(), (3, 2))
    layer = _adapt(Linear(5, 3, dtype=jnp.bfloat16, key=getkey()), getkey, up=up)
    merged = lora.premerge(layer).base.weight
    exact = layer.base.weight.astype(jnp.float32) + layer.update()
    np.testing.assert_array_equal(merged, exact.astype(jnp.bfloat16))
