"""A few rows of one head's score matrix at a time, forward and backward."""

import functools as ft
import math
from typing import Any, NamedTuple

import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dtypes import at_least_float32
from ._rows import attend_rows, rows_vjp, softmax_columns


# Scores of one chunk: 4 MiB of float32, about what the caches of a CPU hold. Twice as
# many and half as many were no faster at 1024 and 4096 tokens.
CHUNK_SCORES = 2**20
# Fewer rows than this leave matrix products too thin, whatever the batch.
_MIN_CHUNK = 128


def chunk_length(batch: int, q_len: int, kv_len: int) -> int:
    """Queries in a chunk: as many as `CHUNK_SCORES` allows, spread evenly."""
    longest = max(CHUNK_SCORES // (batch * kv_len), _MIN_CHUNK)
    return math.ceil(q_len / math.ceil(q_len / longest))


def _heads_first(x):
    """`[batch, tokens, heads, ...]` to `[heads, batch, tokens, 1, ...]`.

    The batch stays whole: it may be split over devices.
    """
    return jnp.moveaxis(x, 2, 0)[:, :, :, None]


def _heads_back(x):
    return jnp.moveaxis(x[:, :, :, 0], 0, 2)


def _split(x, length):
    """`[batch, tokens, ...]` to `[chunks, batch, length, ...]`, padded with zeros."""
    batch, tokens = x.shape[:2]
    num_chunks = math.ceil(tokens / length)
    x = jnp.pad(x, ((0, 0), (0, num_chunks * length - tokens), (0, 0), (0, 0)))
    return jnp.moveaxis(x.reshape(batch, num_chunks, length, *x.shape[2:]), 1, 0)


def _join(x, tokens):
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :tokens]


def _first_rows(q_len, length):
    return jnp.arange(0, q_len, length)


class _Residuals(NamedTuple):
    query: Array
    key: Array
    value: Array
    out: Any


class _Rows(NamedTuple):
    """Some rows of a head, or all of them: queries, what they got, its cotangent."""

    query: Array
    out: Array
    d_out: Array


@ft.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(query, key, value, is_causal, length):
    q_len = query.shape[1]

    def head(args):
        query, key, value = args

        def chunk(args):
            rows, first_row = args
            return attend_rows(
                rows, key, value, is_causal=is_causal, first_row=first_row
            )

        out = lax.map(chunk, (_split(query, length), _first_rows(q_len, length)))
        return _join(out, q_len)

    heads = tuple(_heads_first(x) for x in (query, key, value))
    return _heads_back(lax.map(head, heads))


def _fwd(query, key, value, is_causal, length):
    out = _attention(query, key, value, is_causal, length)
    return out, _Residuals(query, key, value, out)


def _bwd(is_causal, length, residuals, d_out):
    q_len = residuals.query.shape[1]

    def head(args):
        rows, key, value = args

        def chunk(sums, args):
            some, first_row = args
            weights, total = softmax_columns(
                some.query, key, is_causal=is_causal, first_row=first_row
            )
            # Used three times: without the barrier XLA may compute them three times.
            weights, total = lax.optimization_barrier((weights, total))
            # Rows of padding have a cotangent of zero and add nothing.
            d_query, *d_key_value = rows_vjp(
                weights, total, some.query, key, value, some.out, some.d_out
            )
            sums = tuple(s + d for s, d in zip(sums, d_key_value, strict=True))
            return sums, d_query.astype(rows.query.dtype)

        zeros = jnp.zeros(key.shape, at_least_float32(key.dtype))
        split = _Rows(*(_split(x, length) for x in rows))
        (d_key, d_value), d_query = lax.scan(
            chunk, (zeros, zeros), (split, _first_rows(q_len, length))
        )
        d_query = _join(d_query, q_len)
        return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype)

    rows = _Rows(residuals.query, residuals.out, d_out)
    heads = jax.tree.map(_heads_first, (rows, residuals.key, residuals.value))
    return tuple(_heads_back(x) for x in lax.map(head, heads))


_attention.defvjp(_fwd, _bwd)


def attention_chunked(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
    length: int | None = None,
) -> Float[Array, "batch q_len heads head_dim"]:
    """Attends in bounded memory, for any device, dtype and size.

    **Arguments:**

    - `query`, `key`, `value`, `is_causal`: As in `dot_product_attention`.
    - `length`: Queries in a chunk, `chunk_length` of the shapes if `None`. They need
        not divide `q_len`.

    **Returns:**

    An array like `query`.

    **Backward:** saves `query`, `key`, `value` and the output. Neither pass has more
    than `length` rows of one head's score matrix at a time.
    """
    if length is None:
        length = chunk_length(query.shape[0], query.shape[1], key.shape[1])
    return _attention(query, key, value, is_causal, length)
