"""Some rows of the score matrix: attention of a few queries over all keys.

Every row is complete, so its softmax needs no running maximum. The softmax is divided
by its sum after the product with the values, where there are `head_dim` numbers to
divide and not `kv_len`. The forward pass has the keys last and the backward pass has
the queries last: on a CPU, each is several times faster than the other way around.
"""

import jax.numpy as jnp

from .._device import target_device
from .._dtypes import at_least_float32


# Texts and small maps. What a TPU's compiler makes of more it cannot estimate itself.
_FEW_KEYS = 256


def attend_rows(query, key, value, *, is_causal, first_row=0):
    """Attention of some queries.

    **Arguments:**

    - `query`: `[batch, rows, heads, head_dim]`.
    - `key`, `value`: `[batch, kv_len, heads, head_dim]`.
    - `is_causal`: Whether position `i` sees only positions `<= i`.
    - `first_row`: The position of the first query; may be traced.

    **Returns:**

    `[batch, rows, heads, head_dim]`, like `value`.
    """
    spec = "btnh,bsnh->bnts"
    weights, total = _softmax(spec, query, key, is_causal=is_causal, first=first_row)
    weights = weights.astype(value.dtype)
    dtype = total.dtype
    product = jnp.einsum(
        "bnts,bsnh->bnth", weights, value, preferred_element_type=dtype
    )
    return (product / total).swapaxes(1, 2).astype(value.dtype)


def softmax_columns(query, key, *, is_causal, first_row=0):
    """The softmax before its division, and its sum, in at least float32.

    **Returns:**

    `[batch, heads, kv_len, rows]` and `[batch, heads, 1, rows]`.
    """
    spec = "btnh,bsnh->bnst"
    return _softmax(spec, query, key, is_causal=is_causal, first=first_row)


def weighted_columns(weights, total, value):
    """What the queries of `softmax_columns` get, like `value`."""
    dtype = total.dtype
    product = jnp.einsum(
        "bnst,bsnh->bnht", weights, value, preferred_element_type=dtype
    )
    return (product / total).transpose(0, 3, 1, 2).astype(value.dtype)


def rows_vjp(weights, total, query, key, value, out, d_out):
    """The VJP of `attend_rows`.

    **Arguments:**

    - `weights`, `total`: What `softmax_columns` returned; may have been rounded since.
    - `query`, `key`, `value`: What both were given.
    - `out`, `d_out`: What `attend_rows` returned, and its cotangent.

    **Returns:**

    The cotangents of `query`, `key` and `value`, in at least float32: the last two are
    what these rows add to a sum over all rows.
    """
    dtype = total.dtype
    product = lambda spec, a, b: jnp.einsum(spec, a, b, preferred_element_type=dtype)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    out, d_out = out.swapaxes(1, 2), d_out.swapaxes(1, 2)
    d_out = d_out.astype(dtype) / total.swapaxes(2, 3)
    # The sum over all keys of `weights * d_weights`.
    mean = jnp.sum(d_out * out.astype(dtype), axis=-1)[:, :, None]
    d_out = d_out.astype(query.dtype)
    d_weights = product("bnsh,bnth->bnst", value, d_out)
    scale = jnp.asarray(query.shape[-1] ** -0.5, dtype)
    d_scores = weights.astype(dtype) * ((d_weights - mean) * scale)
    d_scores = d_scores.astype(query.dtype)
    d_query = product("bnst,bnsh->bnht", d_scores, key).transpose(0, 3, 1, 2)
    d_key = product("bnst,bnth->bnsh", d_scores, query).swapaxes(1, 2)
    d_value = product("bnst,bnth->bnsh", weights.astype(value.dtype), d_out)
    return d_query, d_key, d_value.swapaxes(1, 2)


def _softmax(spec, query, key, *, is_causal, first):
    """The exponentials of the scores, less their largest, and their sum over keys."""
    dtype = at_least_float32(query.dtype)
    scores = jnp.einsum(spec, query, key, preferred_element_type=dtype)
    scores = scores * jnp.asarray(query.shape[-1] ** -0.5, dtype)
    axis = -1 if spec.endswith("s") else -2
    if is_causal:
        rows = first + jnp.arange(query.shape[1])
        visible = jnp.arange(key.shape[1])[None] <= rows[:, None]
        visible = visible if axis == -1 else visible.T
        scores = jnp.where(visible[None, None], scores, jnp.finfo(dtype).min)
    weights = jnp.exp(scores - jnp.max(scores, axis, keepdims=True))
    is_short = query.dtype != dtype and key.shape[1] <= _FEW_KEYS
    if is_short and target_device().platform == "tpu":
        # There a product is faster than a sum, and nothing is lost: what is multiplied
        # by the values has been rounded too.
        ones, rounded = jnp.ones(key.shape[1], query.dtype), weights.astype(query.dtype)
        spec = f"{spec[-4:]},s->bnt"
        total = jnp.einsum(spec, rounded, ones, preferred_element_type=dtype)
        return weights, jnp.expand_dims(total, axis)
    return weights, jnp.sum(weights, axis, keepdims=True)
