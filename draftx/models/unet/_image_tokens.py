"""Tokens made of a picture, which a UNet attends to beside those of the text."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import KeyValue, LayerNorm, Linear
from ._blocks import TextContext
from ._config import UNetConfig


class ImageTokens(eqx.Module):
    r"""Lets all layers that attend to the text attend to a picture as well.

    The embedding of the picture becomes a few tokens, and every cross-attention has
    keys and values of its own for them:

    $$\mathrm{Attn}(q, K, V) + s\,\mathrm{Attn}(q, K_v, V_v)$$

    The UNet is as it was. Fields are named after IP-Adapter's files: in `ip_adapter`
    every attention of the UNet has its place, those on the way down, those on the way
    up, those in the middle, and where tokens attend to themselves it holds `None`.

    ??? cite

        [IP-Adapter](https://arxiv.org/abs/2308.06721), equation 5.
    """

    image_proj: "ImageProjection"
    ip_adapter: list["ImageKeyValue | None"]

    def __init__(
        self,
        config: UNetConfig,
        *,
        embedding_features: int,
        num_tokens: int = 4,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: Of the UNet.
        - `embedding_features`: Of the embedding of a picture.
        - `num_tokens`: How many tokens are made of it. diffusers takes 4 for granted.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        pkey, akey = jr.split(key)
        features, sizes = config.cross_attention_dim, _sizes(config)
        self.image_proj = ImageProjection(
            embedding_features, features, num_tokens, dtype=dtype, key=pkey
        )
        self.ip_adapter = []
        for size, k in zip(sizes, jr.split(akey, len(sizes)), strict=True):
            self.ip_adapter += [None, ImageKeyValue(features, size, dtype=dtype, key=k)]

    @property
    def embedding_features(self) -> int:
        """Of the embedding of a picture."""
        return self.image_proj.proj.in_features

    @property
    def layers(self) -> list["ImageKeyValue"]:
        """Those of every cross-attention, in the order of the file."""
        return [layer for layer in self.ip_adapter if layer is not None]

    def check(self, config: UNetConfig) -> None:
        """Raises a `ValueError` unless they are for this UNet.

        **Arguments:**

        - `config`: Of the UNet.
        """
        own = [layer.to_k_ip.out_features for layer in self.layers]
        features = self.image_proj.norm.weight.shape[0]
        wanted = _sizes(config), config.cross_attention_dim
        if (own, features) != wanted:
            raise ValueError(
                "`tokens` must be for a UNet with cross-attention of widths "
                f"{wanted[0]} to {wanted[1]} features; got {own} and {features}."
            )

    @jax.named_scope("draftx.unet.image_tokens")
    def beside(
        self,
        contexts: list[TextContext],
        embeddings: Float[Array, "rows embedding"],
        scale: Float[Array, ""],
    ) -> list[TextContext]:
        """Adds the picture to what every block is told of the text.

        **Arguments:**

        - `contexts`: From `UNet2DConditionModel.text_context`.
        - `embeddings`: Of one picture for each row of the text.
        - `scale`: $s$, which is 1 in training; 0 is the text alone.
        """
        tokens = self.image_proj(embeddings)
        layers, new = iter(self.layers), list(contexts)
        for i in _file_order(len(contexts)):
            new[i] = [
                [next(layers)(context, tokens, scale) for context in transformer]
                for transformer in contexts[i]
            ]
        return new


class ImageProjection(eqx.Module):
    """Makes tokens of the embedding of a picture: a linear layer and a norm."""

    proj: Linear
    norm: LayerNorm

    def __init__(
        self,
        embedding_features: int,
        features: int,
        num_tokens: int,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        self.proj = Linear(
            embedding_features, num_tokens * features, dtype=dtype, key=key
        )
        self.norm = LayerNorm(features, dtype=dtype)

    def __call__(
        self, embeddings: Float[Array, "rows embedding"]
    ) -> Float[Array, "rows tokens features"]:
        x = self.proj(embeddings.astype(self.proj.dtype))
        return self.norm(x.reshape(x.shape[0], -1, self.norm.weight.shape[0]))


class ImageKeyValue(eqx.Module):
    """Projects tokens of a picture to keys and values of one cross-attention."""

    to_k_ip: Linear
    to_v_ip: Linear

    def __init__(
        self,
        features: int,
        inner: int,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        kkey, vkey = jr.split(key)
        self.to_k_ip = Linear(features, inner, use_bias=False, dtype=dtype, key=kkey)
        self.to_v_ip = Linear(features, inner, use_bias=False, dtype=dtype, key=vkey)

    def __call__(
        self,
        context: KeyValue,
        tokens: Float[Array, "rows tokens features"],
        scale: Float[Array, ""],
    ) -> KeyValue:
        """Adds keys and values to those of the text, split into heads as they are."""
        heads = context.key.shape[-2:]
        key, value = self.to_k_ip(tokens), self.to_v_ip(tokens)
        # What is attended to is linear in its values: there they are fewest.
        value = scale.astype(value.dtype) * value
        split = lambda x: x.reshape(*x.shape[:-1], *heads)
        return KeyValue(context.key, context.value, KeyValue(split(key), split(value)))


def _file_order(count: int) -> list[int]:
    """Blocks as files count them: on the way down, on the way up, in the middle."""
    levels = count // 2
    return [*range(levels), *range(levels + 1, count), levels]


def _sizes(config: UNetConfig) -> list[int]:
    """The width of every cross-attention, in the order of the file."""
    levels = range(len(config.block_out_channels))
    residuals = config.per_level(config.layers_per_block)
    transformers = config.per_level(config.transformer_layers_per_block)
    counts = [
        (level, residuals[level] * config.down_has_attention[level]) for level in levels
    ]
    counts += [
        (level, (residuals[level] + 1) * config.up_has_attention[index])
        for index, level in enumerate(reversed(levels))
    ]
    counts.append((levels[-1], 1))
    return [
        config.block_out_channels[level]
        for level, count in counts
        for _ in range(count * transformers[level])
    ]
