from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import dot_product_attention
from ._linear import Linear


class Attention(eqx.Module):
    """Multi-head attention with diffusers' projections: self- or cross-attention."""

    to_q: Linear
    to_k: Linear
    to_v: Linear
    to_out: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(
        self,
        query_features: int,
        context_features: int,
        *,
        num_heads: int,
        qkv_bias: bool = False,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `query_features`: Features of the input, of the output and of all heads.
        - `context_features`: Features of what keys and values are made from.
        - `num_heads`: Must divide `query_features`.
        - `qkv_bias`: Whether the first three projections have a bias.
        """
        if query_features % num_heads != 0:
            raise ValueError(
                "`num_heads` must divide `query_features`; got "
                f"num_heads={num_heads}, query_features={query_features}."
            )
        qkey, kkey, vkey, okey = jr.split(key, 4)
        inner = query_features
        kwargs: dict[str, Any] = dict(use_bias=qkv_bias, dtype=dtype)
        self.to_q = Linear(query_features, inner, **kwargs, key=qkey)
        self.to_k = Linear(context_features, inner, **kwargs, key=kkey)
        self.to_v = Linear(context_features, inner, **kwargs, key=vkey)
        self.to_out = Linear(inner, query_features, dtype=dtype, key=okey)
        self.num_heads = num_heads

    def __call__(
        self,
        x: Float[Array, "batch tokens features"],
        context: Float[Array, "batch context_tokens context_features"] | None = None,
    ) -> Float[Array, "batch tokens features"]:
        """**Arguments:**

        - `x`: What attends.
        - `context`: What is attended to; `x` itself if `None`.
        """
        context = x if context is None else context
        split = lambda y: rearrange(y, "b t (n h) -> b t n h", n=self.num_heads)
        query, key, value = self.to_q(x), self.to_k(context), self.to_v(context)
        out = dot_product_attention(split(query), split(key), split(value))
        return self.to_out(rearrange(out, "b t n h -> b t (n h)"))
