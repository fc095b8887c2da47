import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.layers import Linear

from ..helpers import assert_close


def _adapt(layer, getkey, *, rank=2, scale=None, up=None):
    """`layer` with an adapter, as fine-tuning adds it: `lora_up` zero unless given."""
    down = jr.normal(getkey(), (rank, layer.in_features))
    up = jnp.zeros((layer.out_features, rank)) if up is None else up
    scale = None if scale is None else jnp.asarray(scale, jnp.float32)
    return eqx.tree_at(
        lambda m: (m.lora_down, m.lora_up, m.lora_scale),
        layer,
        (down, up, scale),
        is_leaf=lambda x: x is None,
    )


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fresh_lora_changes_nothing(dtype, getkey):
    plain = Linear(5, 3, dtype=dtype, key=getkey())
    adapted = _adapt(plain, getkey, scale=2.0)
    x = jr.normal(getkey(), (2, 7, 5), dtype)
    # Not only close: fine-tuning starts at the very pictures of the base model.
    np.testing.assert_array_equal(adapted(x), plain(x))


@pytest.mark.parametrize("scale", [None, 2.0])
def test_lora_equals_merged_weight(scale, getkey):
    up = jr.normal(getkey(), (3, 2))
    layer = _adapt(Linear(5, 3, key=getkey()), getkey, scale=scale, up=up)
    x = jr.normal(getkey(), (7, 5))
    update = (scale or 1.0) * np.asarray(up) @ np.asarray(layer.lora_down)
    expected = np.asarray(x) @ (np.asarray(layer.weight) + update).T
    assert_close(layer(x), jnp.asarray(expected + np.asarray(layer.bias)))
    assert_close(layer.lora_update(), jnp.asarray(update))


def test_no_adapter_has_no_update(getkey):
    assert Linear(5, 3, key=getkey()).lora_update() is None


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
    assert grads.weight.dtype == jnp.bfloat16
    assert jnp.isfinite(out)
    merged = np.asarray(plain.weight, np.float32) + np.asarray(layer.lora_update())
    expected = np.asarray(x, np.float32) @ merged.T
    assert_close(layer(x), jnp.asarray(expected, jnp.bfloat16), scale=3.0)


def test_half_an_adapter_is_refused(getkey):
    layer = Linear(5, 3, key=getkey())
    none = lambda x: x is None
    half = eqx.tree_at(lambda m: m.lora_up, layer, jnp.zeros((3, 2)), is_leaf=none)
    text = "`lora_down` and `lora_up` must be both set or both None"
    with pytest.raises(ValueError, match=text):
        half.__check_init__()


def test_vmap_is_batching(getkey):
    layer, x = Linear(5, 3, key=getkey()), jr.normal(getkey(), (7, 5))
    assert_close(jax.vmap(layer)(x), layer(x))


def test_wrong_size_is_caught_by_annotation(getkey):
    with pytest.raises(Exception, match="(?i)type-check"):
        Linear(5, 3, key=getkey())(jnp.zeros((2, 4)))


@pytest.mark.parametrize("scale", [None, 2.0])
def test_premerged_has_the_values_and_gradients_of_the_layer(scale, getkey):
    up = jr.normal(getkey(), (3, 2))
    layer = _adapt(Linear(5, 3, key=getkey()), getkey, scale=scale, up=up)
    x, cotangent = jr.normal(getkey(), (2, 7, 5)), jr.normal(getkey(), (2, 7, 3))

    def loss(layer, x, prepare):
        return jnp.sum(prepare(layer)(x) * cotangent)

    grad = eqx.filter_jit(eqx.filter_value_and_grad(lambda a, f: loss(*a, f)))
    expected = grad((layer, x), lambda layer: layer)
    actual = grad((layer, x), lambda layer: layer.premerged())
    assert_close(actual, expected)


def test_premerged_without_adapter_is_the_layer(getkey):
    layer = Linear(5, 3, key=getkey())
    assert layer.premerged() is layer


def test_premerged_rounds_once_to_the_dtype_of_the_weight(getkey):
    up = 0.1 * jr.normal(getkey(), (3, 2))
    layer = _adapt(Linear(5, 3, dtype=jnp.bfloat16, key=getkey()), getkey, up=up)
    merged = layer.premerged().lora_merged
    exact = layer.weight.astype(jnp.float32) + layer.lora_update()
    np.testing.assert_array_equal(merged, exact.astype(jnp.bfloat16))
