"""Attention against its definition in NumPy, float64."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import numpy as np
import pytest

from draftx.kernels import dot_product_attention

from ..helpers import assert_close


def _definition(query, key, value, is_causal):
    """One head of one image at a time."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    out = np.zeros(query.shape)
    batch, q_len, heads, head_dim = query.shape
    for b in range(batch):
        for n in range(heads):
            scores = query[b, :, n] @ key[b, :, n].T / np.sqrt(head_dim)
            if is_causal:
                hidden = np.arange(key.shape[1])[None] > np.arange(q_len)[:, None]
                scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights = weights / weights.sum(axis=1, keepdims=True)
            out[b, :, n] = weights @ value[b, :, n]
    return out


def _problem(getkey, q_len, kv_len, dtype):
    query = 2 * jr.normal(getkey(), (2, q_len, 3, 4), dtype)
    key = 2 * jr.normal(getkey(), (2, kv_len, 3, 4), dtype)
    return query, key, jr.normal(getkey(), key.shape, dtype)


@pytest.mark.parametrize(
    ("q_len", "kv_len", "is_causal", "dtype"),
    [
        (5, 7, False, jnp.float32),
        (7, 5, False, jnp.bfloat16),
        (6, 6, True, jnp.float32),
        (6, 6, True, jnp.bfloat16),
        (5, 1, False, jnp.float32),
    ],
)
def test_matches_definition(q_len, kv_len, is_causal, dtype, getkey):
    args = _problem(getkey, q_len, kv_len, dtype)
    actual = jax.jit(ft.partial(dot_product_attention, is_causal=is_causal))(*args)
    assert_close(actual, jnp.asarray(_definition(*args, is_causal), dtype))


@pytest.mark.parametrize("is_causal", [False, True])
def test_gradient_against_finite_differences(is_causal, getkey):
    with jax.enable_x64(True):
        args = _problem(getkey, 4, 4, jnp.float64)
        op = jax.jit(ft.partial(dot_product_attention, is_causal=is_causal))
        assert_close(op(*args), jnp.asarray(_definition(*args, is_causal)))
        jax.test_util.check_grads(op, args, order=1, modes=["rev"])


def test_future_has_no_influence(getkey):
    query, key, value = _problem(getkey, 6, 6, jnp.float32)
    op = ft.partial(dot_product_attention, is_causal=True)
    before = op(query, key, value)
    after = op(query, key.at[:, 4:].set(9.0), value.at[:, 4:].set(-9.0))
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert jnp.all(after[:, 4:] != before[:, 4:])


def test_large_scores_stay_finite(getkey):
    query, key, value = _problem(getkey, 5, 7, jnp.float32)
    out, vjp = jax.vjp(dot_product_attention, 1e4 * query, 1e4 * key, value)
    assert jnp.all(jnp.isfinite(out))
    assert all(jnp.all(jnp.isfinite(g)) for g in vjp(jnp.ones_like(out)))


def test_softmax_is_computed_in_float32(getkey):
    args = _problem(getkey, 5, 7, jnp.bfloat16)
    jaxpr = str(jax.make_jaxpr(dot_product_attention)(*args))
    exps = [line for line in jaxpr.splitlines() if "= exp " in line]
    assert exps
    assert all(":f32[" in line for line in exps)


def test_vmap_is_batching(getkey):
    args = _problem(getkey, 5, 7, jnp.float32)
    one = lambda *xs: dot_product_attention(*(x[None] for x in xs))[0]
    assert_close(jax.vmap(one)(*args), dot_product_attention(*args))


def test_unequal_heads_are_caught_by_annotation(getkey):
    query, key, value = _problem(getkey, 5, 7, jnp.float32)
    with pytest.raises(Exception, match="(?i)type-check"):
        dot_product_attention(query[:, :, :1], key, value)
