"""Some rows of the score matrix: attention of a few queries over all keys.

Every row is complete, so its softmax needs no running maximum.
"""

import jax
import jax.numpy as jnp

from .._dtypes import at_least_float32


def softmax_rows(query, key, *, is_causal, first_row=0):
    """The weights of all keys, in at least float32.

    **Arguments:**

    - `query`: `[batch, rows, heads, head_dim]`.
    - `key`: `[batch, kv_len, heads, head_dim]`.
    - `is_causal`: Whether position `i` sees only positions `<= i`.
    - `first_row`: The position of the first query; may be traced.

    **Returns:**

    `[batch, heads, rows, kv_len]`.
    """
    dtype = at_least_float32(query.dtype)
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=dtype)
    scores = scores * jnp.asarray(query.shape[-1] ** -0.5, dtype)
    if is_causal:
        rows = first_row + jnp.arange(query.shape[1])[:, None]
        visible = jnp.arange(key.shape[1])[None] <= rows
        scores = jnp.where(visible[None, None], scores, jnp.finfo(dtype).min)
    return jax.nn.softmax(scores, axis=-1)


def weighted_sum(weights, value):
    """What the queries of `softmax_rows` get: `[batch, rows, heads, head_dim]`."""
    return jnp.einsum("bnts,bsnh->btnh", weights.astype(value.dtype), value)


def rows_vjp(weights, query, key, value, d_out):
    """The VJP of both of the above together.

    **Arguments:**

    - `weights`: What `softmax_rows` returned; may have been rounded since.
    - `query`, `key`, `value`: What the two were given.
    - `d_out`: The cotangent of the weighted sum.

    **Returns:**

    The cotangents of `query`, `key` and `value`, in at least float32: the last two are
    what these rows add to a sum over all rows.
    """
    dtype = at_least_float32(query.dtype)
    product = lambda spec, a, b: jnp.einsum(spec, a, b, preferred_element_type=dtype)
    d_weights = product("btnh,bsnh->bnts", d_out, value)
    d_scores = weights.astype(dtype) * d_weights
    # The sum equals that of `d_out * out`, for which `out` would have to be kept.
    mean = jnp.sum(d_scores, axis=-1, keepdims=True)
    d_scores = d_scores - weights.astype(dtype) * mean
    d_scores = d_scores * jnp.asarray(query.shape[-1] ** -0.5, dtype)
    d_scores = d_scores.astype(query.dtype)
    d_query = product("bnts,bsnh->btnh", d_scores, key)
    d_key = product("bnts,btnh->bsnh", d_scores, query)
    d_value = product("bnts,btnh->bsnh", weights.astype(value.dtype), d_out)
    return d_query, d_key, d_value
