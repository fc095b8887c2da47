"""cuDNN without a GPU: the program that would be sent to one, and the padding."""

import functools as ft
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.kernels import (
    attention_reference,
    compiling_for,
    dot_product_attention,
    target_device,
)
from draftx.kernels.attention._cudnn import attention_cudnn

from ...helpers import assert_close


def _vjp(fn):
    return lambda query, key, value, d_out: jax.vjp(fn, query, key, value)[1](d_out)


@ft.partial(jax.jit, static_argnums=(0, 2))
def _both(fn, args, is_causal):
    *qkv, d_out = args
    out, pullback = jax.vjp(ft.partial(fn, is_causal=is_causal), *qkv)
    return out, pullback(d_out)


@pytest.mark.parametrize(
    ("q_len", "kv_len", "head_dim", "is_causal"),
    [(256, 256, 40, False), (64, 77, 160, False), (77, 77, 64, True)],
)
def test_lowers_to_the_fused_kernel(q_len, kv_len, head_dim, is_causal):
    query = jax.ShapeDtypeStruct((2, q_len, 8, head_dim), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((2, kv_len, 8, head_dim), jnp.bfloat16)
    op = lambda *args: dot_product_attention(*args, is_causal=is_causal)
    for fn, args, calls in (
        (op, (query, key, key), ["__cudnn$fmhaSoftmax"]),
        (
            _vjp(op),
            (query, key, key, query),
            ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"],
        ),
    ):
        with compiling_for("cuda", (9, 0)):
            lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=("cuda",))
        text = lowered.as_text()
        assert sorted(set(re.findall(r"__cudnn\$\w+", text))) == calls
        # Nothing is left for XLA to multiply.
        assert "dot_general" not in text


@pytest.mark.parametrize(
    ("q_len", "kv_len", "is_causal"), [(6, 7, False), (5, 6, False), (7, 7, True)]
)
def test_odd_lengths_are_padded_and_masked(
    q_len, kv_len, is_causal, getkey, monkeypatch
):
    real, lengths = jax.nn.dot_product_attention, []

    def in_place_of_cudnn(query, key, value, *, implementation, **kwargs):
        assert implementation == "cudnn"
        lengths.extend((query.shape[1], key.shape[1]))
        return real(query, key, value, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", in_place_of_cudnn)
    query = jr.normal(getkey(), (2, q_len, 3, 8))
    key, value = jr.normal(getkey(), (2, 2, kv_len, 3, 8))
    args = query, key, value, jr.normal(getkey(), query.shape)
    assert_close(
        _both(attention_cudnn, args, is_causal),
        _both(attention_reference, args, is_causal),
    )
    assert lengths
    assert all(length % 2 == 0 for length in lengths)
    # Without a gradient no length is refused, and nothing is copied.
    lengths.clear()
    out = attention_cudnn(query, key, value, is_causal=is_causal)
    assert_close(out, attention_reference(query, key, value, is_causal=is_causal))
    assert lengths == [q_len, kv_len]


@pytest.mark.gpu
@pytest.mark.skipif(target_device().platform != "cuda", reason="needs cuDNN")
@pytest.mark.parametrize(
    ("q_len", "kv_len", "head_dim"), [(256, 256, 40), (256, 77, 80), (64, 77, 160)]
)
def test_matches_reference_on_a_gpu(q_len, kv_len, head_dim, getkey):
    query = jr.normal(getkey(), (2, q_len, 8, head_dim), jnp.bfloat16)
    key, value = jr.normal(getkey(), (2, 2, kv_len, 8, head_dim), jnp.bfloat16)
    args = query, key, value, jr.normal(getkey(), query.shape, jnp.bfloat16)
    op = ft.partial(dot_product_attention, implementation="cudnn")
    wide = tuple(x.astype(jnp.float32) for x in args)
    expected = _both(attention_reference, wide, False)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), expected)
    # Sums over queries or keys of rounded weights.
    assert_close(_both(op, args, False), expected, scale=max(q_len, kv_len) ** 0.5)
