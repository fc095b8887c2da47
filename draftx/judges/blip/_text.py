import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._custom_types import InputIds
from ...kernels import at_least_float32, dot_product_attention
from ...layers import AbstractLinear, checkpoint_if, LayerNorm, Linear, Remat
from ._config import BertConfig


class BertAttention(eqx.Module):
    """Lets tokens attend to a context; in BERT, a sum and a norm follow."""

    query: AbstractLinear
    key: AbstractLinear
    value: AbstractLinear
    dense: AbstractLinear
    layer_norm: LayerNorm
    num_heads: int = eqx.field(static=True)

    def __init__(
        self, config: BertConfig, context_features: int, *, dtype, key: PRNGKeyArray
    ):
        qkey, kkey, vkey, okey = jr.split(key, 4)
        features = config.hidden_size
        self.query = Linear(features, features, dtype=dtype, key=qkey)
        self.key = Linear(context_features, features, dtype=dtype, key=kkey)
        self.value = Linear(context_features, features, dtype=dtype, key=vkey)
        self.dense = Linear(features, features, dtype=dtype, key=okey)
        self.layer_norm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )
        self.num_heads = config.num_attention_heads

    @jax.named_scope("attention")
    def __call__(
        self,
        x: Float[Array, "batch tokens features"],
        context: Float[Array, "batch context_tokens context_features"],
        lengths: Int[Array, " batch"] | None = None,
    ) -> Float[Array, "batch tokens features"]:
        """Attends, and maps tokens to tokens with as many features.

        **Arguments:**

        - `x`: What attends.
        - `context`: What is attended to.
        - `lengths`: How many tokens of `context` are seen; all of them if `None`.
        """
        split = lambda y: rearrange(y, "b t (n h) -> b t n h", n=self.num_heads)
        query, key = split(self.query(x)), split(self.key(context))
        value = split(self.value(context))
        if lengths is None:
            out = dot_product_attention(query, key, value)
        else:
            out = _attend_to_first(query, key, value, lengths)
        return self.layer_norm(x + self.dense(rearrange(out, "b t n h -> b t (n h)")))


def _attend_to_first(
    query: Float[Array, "batch tokens heads head_dim"],
    key: Float[Array, "batch kv_tokens heads head_dim"],
    value: Float[Array, "batch kv_tokens heads head_dim"],
    lengths: Int[Array, " batch"],
) -> Float[Array, "batch tokens heads head_dim"]:
    """Attends to the first tokens of each row: padding is not seen.

    For a few dozen tokens of text, where no kernel would be faster than the whole score
    matrix. The softmax is computed in at least float32.
    """
    dtype = at_least_float32(query.dtype)
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=dtype)
    scores = scores * jnp.asarray(query.shape[-1] ** -0.5, dtype)
    is_seen = jnp.arange(key.shape[1])[None] < lengths[:, None]
    hidden = jnp.asarray(jnp.finfo(dtype).min, dtype)
    scores = jnp.where(is_seen[:, None, None], scores, hidden)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bnts,bsnh->btnh", weights, value)


class BertLayer(eqx.Module):
    """Maps tokens to tokens that have seen the text, then the image; post-norm."""

    attention: BertAttention
    crossattention: BertAttention
    intermediate: AbstractLinear
    output: AbstractLinear
    layer_norm: LayerNorm

    def __init__(
        self, config: BertConfig, image_features: int, *, dtype, key: PRNGKeyArray
    ):
        akey, ckey, ikey, okey = jr.split(key, 4)
        features, inner = config.hidden_size, config.intermediate_size
        self.attention = BertAttention(config, features, dtype=dtype, key=akey)
        self.crossattention = BertAttention(
            config, image_features, dtype=dtype, key=ckey
        )
        self.intermediate = Linear(features, inner, dtype=dtype, key=ikey)
        self.output = Linear(inner, features, dtype=dtype, key=okey)
        self.layer_norm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )

    @jax.named_scope("bert_layer")
    def __call__(
        self,
        x: Float[Array, "batch tokens features"],
        image_tokens: Float[Array, "batch image_tokens image_features"],
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch tokens features"]:
        x = self.attention(x, x, lengths)
        x = self.crossattention(x, image_tokens)
        y = self.output(jax.nn.gelu(self.intermediate(x), approximate=False))
        return self.layer_norm(x + y)


class BertWithImage(eqx.Module):
    """Encodes a text with an image before it: BERT with cross-attention, as in BLIP.

    ??? cite

        [BLIP](https://arxiv.org/abs/2201.12086), section 3.1.
    """

    token_embedding: Float[Array, "vocab features"]
    position_embedding: Float[Array, "positions features"]
    layer_norm: LayerNorm
    layers: list[BertLayer]
    config: BertConfig = eqx.field(static=True)

    def __init__(
        self,
        config: BertConfig,
        image_features: int,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: The architecture.
        - `image_features`: Features of the image's tokens.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        tkey, pkey, lkey = jr.split(key, 3)
        features = config.hidden_size
        tokens = (config.vocab_size, features)
        positions = (config.max_position_embeddings, features)
        self.token_embedding = 0.02 * jr.normal(tkey, tokens, dtype)
        self.position_embedding = 0.02 * jr.normal(pkey, positions, dtype)
        self.layer_norm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )
        self.layers = [
            BertLayer(config, image_features, dtype=dtype, key=k)
            for k in jr.split(lkey, config.num_hidden_layers)
        ]
        self.config = config

    @jax.named_scope("draftx.blip.text")
    def __call__(
        self,
        input_ids: InputIds,
        lengths: Int[Array, " batch"],
        image_tokens: Float[Array, "batch image_tokens image_features"],
        *,
        remat: Remat = Remat.NONE,
    ) -> Float[Array, "batch tokens features"]:
        """Encodes token ids `[batch, tokens]`.

        **Arguments:**

        - `input_ids`: At most `config.max_position_embeddings` tokens, padded at the
            end.
        - `lengths`: How many of each row are no padding. Only these are attended to.
        - `image_tokens`: Of the image of each row.
        - `remat`: As in [`draftx.judges.VisionTransformer`][].

        **Returns:**

        The last hidden state of every position, in the dtype of the weights.
        """
        _, tokens = input_ids.shape
        positions = self.position_embedding[:tokens]
        x = self.layer_norm(self.token_embedding[input_ids] + positions[None])
        for layer in self.layers:
            x = checkpoint_if(remat.scoring, layer)(x, image_tokens, lengths)
        return x
