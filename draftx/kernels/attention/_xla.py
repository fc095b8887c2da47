"""The whole score matrix at once, its softmax kept: fast where that is small."""

import functools as ft

import jax
from jaxtyping import Array, Float

from ._rows import rows_vjp, softmax_rows, weighted_sum


@ft.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(query, key, value, is_causal):
    return _fwd(query, key, value, is_causal)[0]


def _fwd(query, key, value, is_causal):
    weights = softmax_rows(query, key, is_causal=is_causal).astype(value.dtype)
    return weighted_sum(weights, value), (weights, query, key, value)


def _bwd(is_causal, residuals, d_out):
    del is_causal  # Hidden keys have a weight of zero.
    weights, query, key, value = residuals
    d_query, d_key, d_value = rows_vjp(weights, query, key, value, d_out)
    return (
        d_query.astype(query.dtype),
        d_key.astype(key.dtype),
        d_value.astype(value.dtype),
    )


_attention.defvjp(_fwd, _bwd)


def attention_xla(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
) -> Float[Array, "batch q_len heads head_dim"]:
    """Attention through a full score matrix, for any device, dtype and size.

    **Backward:** saves `query`, `key`, `value` and the softmax, in the dtype of
    `value`. Making it again from the rest takes a tenth to a third longer on a CPU;
    `"chunked"` is for where the memory is worth more.
    """
    return _attention(query, key, value, is_causal)
