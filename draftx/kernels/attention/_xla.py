"""The whole score matrix at once, its softmax kept: fast where that is small."""

import functools as ft
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from ._rows import attend_rows, rows_vjp, softmax_columns, weighted_columns


class _Residuals(NamedTuple):
    weights: Array
    total: Array
    query: Array
    key: Array
    value: Array
    out: Array


@ft.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, is_causal):
    return attend_rows(query, key, value, is_causal=is_causal)


def _fwd(query, key, value, is_causal):
    weights, total = softmax_columns(query, key, is_causal=is_causal)
    weights = weights.astype(value.dtype)
    out = weighted_columns(weights, total, value)
    return out, _Residuals(weights, total, query, key, value, out)


def _bwd(is_causal, residuals, d_out):
    del is_causal  # Hidden keys have a weight of zero.
    r = residuals
    d_query, d_key, d_value = rows_vjp(
        r.weights, r.total, r.query, r.key, r.value, r.out, d_out
    )
    return (
        d_query.astype(r.query.dtype),
        d_key.astype(r.key.dtype),
        d_value.astype(r.value.dtype),
    )


_attention.defvjp(_fwd, _bwd)


def attention_xla(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
) -> Float[Array, "batch q_len heads head_dim"]:
    """Attends through one score matrix, for any device, dtype and size.

    **Backward:** saves `query`, `key`, `value`, the output and the softmax, in the
    dtype of `value`. Making the softmax again takes up to twice as long on a CPU;
    `"chunked"` is for where the memory is worth more.
    """
    return _attention(query, key, value, is_causal)
