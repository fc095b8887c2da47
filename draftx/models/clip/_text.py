import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import InputIds, TextEmbeddings
from ...kernels import dot_product_attention
from ...layers import LayerNorm, Linear
from ._config import CLIPTextConfig


class SelfAttention(eqx.Module):
    """Causal multi-head self-attention with CLIP's projections."""

    q_proj: Linear
    k_proj: Linear
    v_proj: Linear
    out_proj: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, features: int, *, num_heads: int, dtype, key: PRNGKeyArray):
        qkey, kkey, vkey, okey = jr.split(key, 4)
        self.q_proj = Linear(features, features, dtype=dtype, key=qkey)
        self.k_proj = Linear(features, features, dtype=dtype, key=kkey)
        self.v_proj = Linear(features, features, dtype=dtype, key=vkey)
        self.out_proj = Linear(features, features, dtype=dtype, key=okey)
        self.num_heads = num_heads

    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        split = lambda y: rearrange(y, "b t (n h) -> b t n h", n=self.num_heads)
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        out = dot_product_attention(
            split(query), split(key), split(value), is_causal=True
        )
        return self.out_proj(rearrange(out, "b t n h -> b t (n h)"))


class MLP(eqx.Module):
    """Two linear layers around CLIP's activation."""

    fc1: Linear
    fc2: Linear
    hidden_act: str = eqx.field(static=True)

    def __init__(self, config: CLIPTextConfig, *, dtype, key: PRNGKeyArray):
        key_1, key_2 = jr.split(key)
        features, inner = config.hidden_size, config.intermediate_size
        self.fc1 = Linear(features, inner, dtype=dtype, key=key_1)
        self.fc2 = Linear(inner, features, dtype=dtype, key=key_2)
        self.hidden_act = config.hidden_act

    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        x = self.fc1(x)
        if self.hidden_act == "quick_gelu":
            x = x * jax.nn.sigmoid(1.702 * x)
        else:
            x = jax.nn.gelu(x, approximate=False)
        return self.fc2(x)


class EncoderLayer(eqx.Module):
    """A pre-norm transformer layer."""

    layer_norm1: LayerNorm
    self_attn: SelfAttention
    layer_norm2: LayerNorm
    mlp: MLP

    def __init__(self, config: CLIPTextConfig, *, dtype, key: PRNGKeyArray):
        akey, mkey = jr.split(key)
        features, epsilon = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(features, epsilon=epsilon, dtype=dtype)
        self.self_attn = SelfAttention(
            features, num_heads=config.num_attention_heads, dtype=dtype, key=akey
        )
        self.layer_norm2 = LayerNorm(features, epsilon=epsilon, dtype=dtype)
        self.mlp = MLP(config, dtype=dtype, key=mkey)

    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPTextModel(eqx.Module):
    """CLIP's text tower up to its last hidden states.

    ??? cite

        [Learning Transferable Visual Models From Natural Language Supervision](
        https://arxiv.org/abs/2103.00020), section 2.4.
    """

    token_embedding: Float[Array, "vocab features"]
    position_embedding: Float[Array, "positions features"]
    layers: list[EncoderLayer]
    final_layer_norm: LayerNorm
    config: CLIPTextConfig = eqx.field(static=True)

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        tkey, pkey, lkey = jr.split(key, 3)
        features = config.hidden_size
        tokens = (config.vocab_size, features)
        positions = (config.max_position_embeddings, features)
        self.token_embedding = 0.02 * jr.normal(tkey, tokens, dtype)
        self.position_embedding = 0.01 * jr.normal(pkey, positions, dtype)
        self.layers = [
            EncoderLayer(config, dtype=dtype, key=k)
            for k in jr.split(lkey, config.num_hidden_layers)
        ]
        self.final_layer_norm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )
        self.config = config

    def __call__(self, input_ids: InputIds) -> TextEmbeddings:
        """**Arguments:**

        - `input_ids`: At most `config.max_position_embeddings` tokens, padded as the
            tokenizer pads: Stable Diffusion masks no padding.

        **Returns:**

        The normed hidden state of every position, in the dtype of the weights.
        """
        _, tokens = input_ids.shape
        positions = self.position_embedding[:tokens]
        x = self.token_embedding[input_ids] + positions[None]
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)
