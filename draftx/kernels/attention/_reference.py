"""The definition every other backend is tested against. Never optimized."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._dtypes import at_least_float32


def attention_reference(
    query: Float[Array, "batch q_len heads head_dim"],
    key: Float[Array, "batch kv_len heads head_dim"],
    value: Float[Array, "batch kv_len heads head_dim"],
    *,
    is_causal: bool = False,
) -> Float[Array, "batch q_len heads head_dim"]:
    """Attends as `dot_product_attention` does, with autodiff's derivative.

    **Arguments:**

    - `query`, `key`, `value`, `is_causal`: As for `dot_product_attention`.
    """
    dtype = at_least_float32(query.dtype)
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=dtype)
    scores = scores * jnp.asarray(query.shape[-1] ** -0.5, dtype)
    if is_causal:
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        scores = jnp.where(visible[None, None], scores, jnp.finfo(dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bnts,bsnh->btnh", weights, value)
