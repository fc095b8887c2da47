"""The backends that run anywhere: values, VJPs, and what they keep and allocate."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import numpy as np
import pytest

from draftx.kernels import (
    attention_reference,
    compiling_for,
    dot_product_attention,
)
from draftx.kernels.attention._chunked import attention_chunked, chunk_length
from draftx.kernels.attention._xla import attention_xla

from ...helpers import assert_close


# Chunks of three rows: they divide none of the lengths below.
_chunked = ft.partial(attention_chunked, length=3)
_BACKENDS = {"reference": attention_reference, "xla": attention_xla}
_BACKENDS["chunked"] = _chunked
_BY_HAND = {"xla": attention_xla, "chunked": _chunked}


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


@pytest.mark.parametrize("backend", _BACKENDS)
@pytest.mark.parametrize(
    ("q_len", "kv_len", "is_causal", "dtype"),
    [
        (5, 7, False, jnp.float32),
        (7, 5, False, jnp.bfloat16),
        (7, 7, True, jnp.float32),
        (5, 1, False, jnp.float32),
    ],
)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_matches_definition(backend, q_len, kv_len, is_causal, dtype, platform, getkey):
    args = _problem(getkey, q_len, kv_len, dtype)
    with compiling_for(platform):
        actual = jax.jit(ft.partial(_BACKENDS[backend], is_causal=is_causal))(*args)
    assert_close(actual, jnp.asarray(_definition(*args, is_causal), dtype))


@pytest.mark.parametrize("backend", _BY_HAND)
@pytest.mark.parametrize(
    ("q_len", "kv_len", "is_causal", "dtype"),
    [(5, 7, False, jnp.float32), (7, 7, True, jnp.bfloat16)],
)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_vjp_matches_reference(
    backend, q_len, kv_len, is_causal, dtype, platform, getkey
):
    args = _problem(getkey, q_len, kv_len, dtype)
    d_out = jr.normal(getkey(), args[0].shape, dtype)

    @ft.partial(jax.jit, static_argnums=0)
    def vjp(fn, args, d_out):
        return jax.vjp(ft.partial(fn, is_causal=is_causal), *args)[1](d_out)

    with compiling_for(platform):
        actual = vjp(_BY_HAND[backend], args, d_out)
    # The definition in float32: autodiff of it in bfloat16 rounds in other places.
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    expected = vjp(attention_reference, wide(args), wide(d_out))
    expected = jax.tree.map(lambda x: x.astype(dtype), expected)
    # Sums over at most seven positions, of terms as large as the queries, four.
    assert_close(actual, expected, scale=4 * 7**0.5)


@pytest.mark.parametrize(
    ("backend", "is_causal"), [("xla", True), ("chunked", True), ("chunked", False)]
)
def test_gradient_against_finite_differences(backend, is_causal, getkey):
    with jax.enable_x64(True):
        args = _problem(getkey, 4, 4, jnp.float64)
        op = jax.jit(ft.partial(_BY_HAND[backend], is_causal=is_causal))
        assert_close(op(*args), jnp.asarray(_definition(*args, is_causal)))
        jax.test_util.check_grads(op, args, order=1, modes=["rev"])


@pytest.mark.parametrize("backend", _BACKENDS)
def test_future_has_no_influence(backend, getkey):
    query, key, value = _problem(getkey, 6, 6, jnp.float32)
    op = jax.jit(ft.partial(_BACKENDS[backend], is_causal=True))
    before = op(query, key, value)
    after = op(query, key.at[:, 4:].set(9.0), value.at[:, 4:].set(-9.0))
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert jnp.all(after[:, 4:] != before[:, 4:])


@pytest.mark.parametrize("backend", _BY_HAND)
def test_large_scores_stay_finite(backend, getkey):
    query, key, value = _problem(getkey, 5, 7, jnp.float32)
    args = 1e4 * query, 1e4 * key, value
    out, pullback = jax.vjp(jax.jit(_BY_HAND[backend]), *args)
    assert jnp.all(jnp.isfinite(out))
    assert all(jnp.all(jnp.isfinite(g)) for g in pullback(jnp.ones_like(out)))


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for param in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(param, "jaxpr", param)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


@pytest.mark.parametrize("backend", _BACKENDS)
def test_softmax_is_computed_in_float32(backend, getkey):
    args = _problem(getkey, 5, 7, jnp.bfloat16)
    jaxpr = jax.make_jaxpr(_BACKENDS[backend])(*args)
    exps = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "exp"]
    assert exps
    assert all(e.outvars[0].aval.dtype == jnp.float32 for e in exps)


def _vjp(fn, args):
    d_out = jnp.ones(args[0].shape, args[0].dtype)
    return lambda *args: jax.vjp(fn, *args)[1](d_out)


@pytest.mark.parametrize("is_vjp", [False, True])
def test_chunked_never_has_all_scores(is_vjp, getkey):
    args = _problem(getkey, 64, 80, jnp.float32)
    largest = {}
    for name, fn in (
        ("xla", attention_xla),
        ("chunked", ft.partial(attention_chunked, length=8)),
    ):
        jaxpr = jax.make_jaxpr(_vjp(fn, args) if is_vjp else fn)(*args)
        shapes = [v.aval for e in _equations(jaxpr.jaxpr) for v in e.outvars]
        largest[name] = max(x.size for x in shapes)
    # Two images, three heads of size five; 64 queries are more than 8 rows of scores.
    assert largest["xla"] == 6 * 64 * 80
    assert 2 * 8 * 80 < largest["chunked"] == 6 * 64 * 5


@pytest.mark.parametrize("backend", _BY_HAND)
def test_what_is_kept(backend, getkey):
    args = _problem(getkey, 5, 7, jnp.bfloat16)
    pullback = jax.eval_shape(lambda *args: jax.vjp(_BY_HAND[backend], *args)[1], *args)
    kept = sorted(x.shape for x in jax.tree.leaves(pullback))
    # Two images, three heads, a softmax of five queries over seven keys.
    softmax = [(2, 3, 7, 5), (2, 3, 1, 5)] if backend == "xla" else []
    assert kept == sorted([x.shape for x in (*args, args[0])] + softmax)
    # All but the sums of the softmax, a number a query.
    sums = [x for x in jax.tree.leaves(pullback) if x.dtype != jnp.bfloat16]
    assert [x.shape for x in sums] == softmax[1:]


def test_chunks_are_even_and_bounded():
    # All of a small problem; 128 rows whatever the batch; no short rest.
    assert chunk_length(4, 256, 256) == 256
    assert chunk_length(8, 4096, 4096) == 128
    assert chunk_length(2, 4100, 4096) == 125
    assert chunk_length(2, 4096, 4096) * 2 * 4096 <= 2**20


def test_vmap_is_batching(getkey):
    args = _problem(getkey, 5, 7, jnp.float32)
    one = lambda *xs: _chunked(*(x[None] for x in xs))[0]
    assert_close(jax.jit(jax.vmap(one))(*args), jax.jit(_chunked)(*args))


def test_unequal_heads_are_caught_by_annotation(getkey):
    query, key, value = _problem(getkey, 5, 7, jnp.float32)
    with pytest.raises(Exception, match="(?i)type-check"):
        dot_product_attention(query[:, :, :1], key, value)
