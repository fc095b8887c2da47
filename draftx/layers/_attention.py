from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import dot_product_attention
from ._linear import AbstractLinear, Linear


class KeyValue(eqx.Module):
    """Holds what is attended to, projected and split into heads.

    **Arguments:**

    - `key`, `value`: `[batch, tokens, heads, head_dim]`.
    - `beside`: What is attended to besides, by a softmax of its own: the results are
        added. `None` for nothing.
    """

    key: Float[Array, "batch tokens heads head_dim"]
    value: Float[Array, "batch tokens heads head_dim"]
    beside: "KeyValue | None" = None


class Attention(eqx.Module):
    """Lets tokens attend to themselves or to a context, with diffusers' projections."""

    to_q: AbstractLinear
    to_k: AbstractLinear
    to_v: AbstractLinear
    to_out: AbstractLinear
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
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
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

    @jax.named_scope("key_value")
    def key_value(
        self, context: Float[Array, "batch context_tokens context_features"]
    ) -> KeyValue:
        """Projects what is attended to to keys and values.

        A context that stays the same from call to call needs projecting only once.
        """
        return KeyValue(
            self._split(self.to_k(context)), self._split(self.to_v(context))
        )

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "batch tokens features"],
        context: KeyValue | None = None,
        *,
        num_references: int = 0,
    ) -> Float[Array, "context_batch tokens features"]:
        """Attends, and maps tokens to tokens with as many features.

        **Arguments:**

        - `x`: What attends.
        - `context`: What is attended to, from `key_value`; `x` itself if `None`. Its
            batch may be a multiple of that of `x`: every row of `x` then attends to as
            many contexts, one after the other.
        - `num_references`: So many of the last rows of `x`, where it attends to itself,
            are references: the other rows attend to their tokens besides their own.
            They are as many for each reference, one after the other.
        """
        if num_references:
            return self._beside(x, num_references)
        context = self.key_value(x) if context is None else context
        query = match_batch(self._split(self.to_q(x)), context.key.shape[0])
        out = dot_product_attention(query, context.key, context.value)
        while (context := context.beside) is not None:
            out = out + dot_product_attention(query, context.key, context.value)
        return self.to_out.of_heads(out)

    def _beside(
        self, x: Float[Array, "batch tokens features"], num_references: int
    ) -> Float[Array, "batch tokens features"]:
        count = x.shape[0] - num_references
        own = self.key_value(x)
        beside = lambda x: jnp.concatenate(
            [x[:count], match_batch(x[count:], count)], axis=1
        )
        attended = self(x[:count], jax.tree.map(beside, own))
        references = self(x[count:], jax.tree.map(lambda x: x[count:], own))
        return jnp.concatenate([attended, references])

    def _split(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens heads head_dim"]:
        return rearrange(x, "b t (n h) -> b t n h", n=self.num_heads)


def match_batch(x: Array, batch: int) -> Array:
    """Repeats every row of `x` so that there are `batch`, copies side by side.

    What does not depend on the text is computed once for an image and its unguided
    twin, and doubled where the text comes in.
    """
    if x.shape[0] == batch:
        return x
    if batch % x.shape[0] != 0:
        raise ValueError(
            f"The batch of a context, {batch}, must be a multiple of the batch of what "
            f"attends to it; got {x.shape[0]}."
        )
    # Not `jnp.repeat`: this form keeps a batch that is split over devices in place.
    shape = (x.shape[0], batch // x.shape[0], *x.shape[1:])
    return jnp.broadcast_to(x[:, None], shape).reshape(batch, *x.shape[1:])
