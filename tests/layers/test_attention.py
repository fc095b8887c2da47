import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.kernels import dot_product_attention
from draftx.layers import Attention, match_batch

from ..helpers import assert_close


@pytest.mark.parametrize("is_cross", [False, True])
def test_heads_are_consecutive_features(is_cross, getkey):
    features = 7 if is_cross else 6
    layer = Attention(6, features, num_heads=2, key=getkey())
    x, text = jr.normal(getkey(), (2, 5, 6)), jr.normal(getkey(), (2, 3, 7))
    context = text if is_cross else x
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        projections = zip(
            (x, context, context), (layer.to_q, layer.to_k, layer.to_v), strict=True
        )
        args = [(a @ to.weight[head].T)[:, :, None] for a, to in projections]
        heads.append(dot_product_attention(*args)[:, :, 0])
    expected = layer.to_out(jnp.concatenate(heads, axis=-1))
    call = lambda layer, x: layer(x, layer.key_value(text) if is_cross else None)
    assert_close(eqx.filter_jit(call)(layer, x), expected)


def test_bias_of_the_projections_is_optional(getkey):
    without = Attention(6, 6, num_heads=2, key=getkey())
    assert without.to_q.bias is without.to_k.bias is without.to_v.bias is None
    assert without.to_out.bias is not None
    assert Attention(6, 6, num_heads=2, qkv_bias=True, key=getkey()).to_k.bias.size == 6


def test_num_heads_error_text(getkey):
    text = "`num_heads` must divide `query_features`; got num_heads=4, query_features=6"
    with pytest.raises(ValueError, match=text):
        Attention(6, 6, num_heads=4, key=getkey())


def test_wrong_context_is_caught_by_annotation(getkey):
    layer = Attention(6, 7, num_heads=2, key=getkey())
    with pytest.raises(Exception, match="(?i)type-check"):
        layer.key_value(jnp.zeros((2, 3, 8)))


def test_a_context_twice_as_long_is_two_calls(getkey):
    layer = Attention(6, 7, num_heads=2, key=getkey())
    x, text = jr.normal(getkey(), (2, 5, 6)), jr.normal(getkey(), (4, 3, 7))
    call = eqx.filter_jit(lambda layer, x, text: layer(x, layer.key_value(text)))
    both = call(layer, x, text).reshape(2, 2, 5, 6)
    for i in range(2):
        assert_close(both[:, i], call(layer, x, text[i::2]))


def test_rows_attend_to_their_reference_besides_themselves(getkey):
    """Two references, of two rows each: by hand, every row with tokens of both."""
    layer = Attention(6, 6, num_heads=2, key=getkey())
    x = jr.normal(getkey(), (6, 5, 6))
    actual = eqx.filter_jit(lambda layer, x: layer(x, num_references=2))(layer, x)
    for row, reference in enumerate((4, 4, 5, 5)):
        tokens = jnp.concatenate([x[row], x[reference]])[None]
        expected = layer(x[row][None], layer.key_value(tokens))
        assert_close(actual[row][None], expected)
    # References know nothing of the others.
    assert_close(actual[4:], layer(x[4:]))


def test_match_batch_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="multiple"):
        match_batch(jnp.zeros((2, 3)), 3)
