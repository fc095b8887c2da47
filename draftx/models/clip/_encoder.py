"""The transformer that both towers of CLIP are made of."""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from ...kernels import dot_product_attention
from ...layers import AbstractLinear, LayerNorm, Linear
from ._config import CLIPTextConfig, CLIPVisionConfig


TowerConfig: TypeAlias = CLIPTextConfig | CLIPVisionConfig


class SelfAttention(eqx.Module):
    """Lets tokens attend to each other, with CLIP's projections."""

    q_proj: AbstractLinear
    k_proj: AbstractLinear
    v_proj: AbstractLinear
    out_proj: AbstractLinear
    num_heads: int = eqx.field(static=True)
    is_causal: bool = eqx.field(static=True)

    def __init__(
        self,
        features: int,
        *,
        num_heads: int,
        is_causal: bool,
        dtype,
        key: PRNGKeyArray,
    ):
        qkey, kkey, vkey, okey = jr.split(key, 4)
        self.q_proj = Linear(features, features, dtype=dtype, key=qkey)
        self.k_proj = Linear(features, features, dtype=dtype, key=kkey)
        self.v_proj = Linear(features, features, dtype=dtype, key=vkey)
        self.out_proj = Linear(features, features, dtype=dtype, key=okey)
        self.num_heads = num_heads
        self.is_causal = is_causal

    @jax.named_scope("attention")
    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        split = lambda y: rearrange(y, "b t (n h) -> b t n h", n=self.num_heads)
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        out = dot_product_attention(
            split(query), split(key), split(value), is_causal=self.is_causal
        )
        return self.out_proj(rearrange(out, "b t n h -> b t (n h)"))


class MLP(eqx.Module):
    """Maps features to features by two linear layers around CLIP's activation."""

    fc1: AbstractLinear
    fc2: AbstractLinear
    hidden_act: str = eqx.field(static=True)

    def __init__(self, config: TowerConfig, *, dtype, key: PRNGKeyArray):
        key_1, key_2 = jr.split(key)
        features, inner = config.hidden_size, config.intermediate_size
        self.fc1 = Linear(features, inner, dtype=dtype, key=key_1)
        self.fc2 = Linear(inner, features, dtype=dtype, key=key_2)
        self.hidden_act = config.hidden_act

    @jax.named_scope("mlp")
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
    """Maps tokens to tokens by a pre-norm transformer layer, causal for texts."""

    layer_norm1: LayerNorm
    self_attn: SelfAttention
    layer_norm2: LayerNorm
    mlp: MLP

    def __init__(
        self, config: TowerConfig, *, is_causal: bool, dtype, key: PRNGKeyArray
    ):
        """**Arguments:**

        - `config`: Of the tower.
        - `is_causal`: Whether a token sees only itself and those before it.
        - `dtype`: Of the weights.
        - `key`: Draws the weights.
        """
        akey, mkey = jr.split(key)
        features, epsilon = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(features, epsilon=epsilon, dtype=dtype)
        self.self_attn = SelfAttention(
            features,
            num_heads=config.num_attention_heads,
            is_causal=is_causal,
            dtype=dtype,
            key=akey,
        )
        self.layer_norm2 = LayerNorm(features, epsilon=epsilon, dtype=dtype)
        self.mlp = MLP(config, dtype=dtype, key=mkey)

    @jax.named_scope("encoder_layer")
    def __call__(
        self, x: Float[Array, "batch tokens features"]
    ) -> Float[Array, "batch tokens features"]:
        """Maps tokens to tokens, `[batch, tokens, features]`."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))
