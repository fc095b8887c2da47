from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import (
    AbstractLinear,
    Attention,
    checkpoint_if,
    GEGLUFeedForward,
    GroupNorm,
    KeyValue,
    LayerNorm,
    Linear,
    match_batch,
    Remat,
)


class TransformerBlock(eqx.Module):
    """Maps tokens to tokens that have seen each other and the text.

    Self-attention, cross-attention, feed-forward; pre-norm residuals.
    """

    norm1: LayerNorm
    attn1: Attention
    norm2: LayerNorm
    attn2: Attention
    norm3: LayerNorm
    ff: GEGLUFeedForward

    def __init__(
        self,
        features: int,
        *,
        num_heads: int,
        text_features: int,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        skey, ckey, fkey = jr.split(key, 3)
        attention: dict[str, Any] = dict(num_heads=num_heads, dtype=dtype)
        self.norm1 = LayerNorm(features, dtype=dtype)
        self.attn1 = Attention(features, features, **attention, key=skey)
        self.norm2 = LayerNorm(features, dtype=dtype)
        self.attn2 = Attention(features, text_features, **attention, key=ckey)
        self.norm3 = LayerNorm(features, dtype=dtype)
        self.ff = GEGLUFeedForward(features, dtype=dtype, key=fkey)

    @jax.named_scope("transformer_block")
    def __call__(
        self,
        x: Float[Array, "batch tokens features"],
        context: KeyValue,
        *,
        remat: Remat = Remat.NONE,
        num_references: int = 0,
    ) -> Float[Array, "context_batch tokens features"]:
        """Maps tokens `[batch, tokens, features]`.

        **Arguments:**

        - `x`: Activations. Their batch may divide that of the context, and grows to it
            where the text comes in: see `Attention`.
        - `context`: The text, from `self.attn2.key_value`.
        - `remat`: Where its `feed_forwards` is true, the backward pass computes the
            feed-forward layer again.
        - `num_references`: So many of the last rows are attended to by the others in
            self-attention: see `Attention`.
        """
        x = x + self.attn1(self.norm1(x), num_references=num_references)
        attended = self.attn2(self.norm2(x), context)
        x = match_batch(x, attended.shape[0]) + attended
        feed_forward = checkpoint_if(remat.feed_forwards, TransformerBlock._feed)
        return x + feed_forward(self, x)

    def _feed(self, x: Array) -> Array:
        return self.ff(self.norm3(x))


class Transformer2D(eqx.Module):
    """Adds to a feature map what transformer blocks make of its pixels."""

    norm: GroupNorm
    proj_in: AbstractLinear
    transformer_blocks: list[TransformerBlock]
    proj_out: AbstractLinear

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        num_layers: int,
        text_features: int,
        num_groups: int,
        use_linear_projection: bool,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `channels`: Of the feature map and of every block.
        - `use_linear_projection`: Whether checkpoints store the two projections as
            linear layers (SD 2) instead of 1x1 convolutions (SD 1).
        """
        ikey, okey, *keys = jr.split(key, 2 + num_layers)
        projection: dict[str, Any] = dict(
            is_conv=not use_linear_projection, dtype=dtype
        )
        # This norm's epsilon is not the config's `norm_eps`.
        self.norm = GroupNorm(
            channels, num_groups=num_groups, epsilon=1e-6, dtype=dtype
        )
        self.proj_in = Linear(channels, channels, **projection, key=ikey)
        self.transformer_blocks = [
            TransformerBlock(
                channels,
                num_heads=num_heads,
                text_features=text_features,
                dtype=dtype,
                key=k,
            )
            for k in keys
        ]
        self.proj_out = Linear(channels, channels, **projection, key=okey)

    def text_context(
        self, text_embeddings: Float[Array, "batch text_tokens text_features"]
    ) -> list[KeyValue]:
        """Projects the text to keys and values, for every block."""
        blocks = self.transformer_blocks
        return [block.attn2.key_value(text_embeddings) for block in blocks]

    @jax.named_scope("transformer")
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        contexts: list[KeyValue],
        *,
        remat: Remat = Remat.NONE,
        num_references: int = 0,
    ) -> Float[Array, "context_batch height width channels"]:
        _, height, width, _ = x.shape
        hidden = rearrange(self.norm(x), "b h w c -> b (h w) c")
        hidden = self.proj_in(hidden)
        for block, context in zip(self.transformer_blocks, contexts, strict=True):
            hidden = block(hidden, context, remat=remat, num_references=num_references)
        hidden = self.proj_out(hidden)
        x = match_batch(x, hidden.shape[0])
        return x + rearrange(hidden, "b (h w) c -> b h w c", h=height, w=width)
