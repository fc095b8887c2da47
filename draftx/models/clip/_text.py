import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import InputIds, TextEmbeddings
from ...layers import LayerNorm
from ._config import CLIPTextConfig
from ._encoder import EncoderLayer


class CLIPTextModel(eqx.Module):
    """Encodes token ids as `[batch, tokens, features]`: CLIP's text tower.

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
        """**Arguments:**

        - `config`: The architecture.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        tkey, pkey, lkey = jr.split(key, 3)
        features = config.hidden_size
        tokens = (config.vocab_size, features)
        positions = (config.max_position_embeddings, features)
        self.token_embedding = 0.02 * jr.normal(tkey, tokens, dtype)
        self.position_embedding = 0.01 * jr.normal(pkey, positions, dtype)
        self.layers = [
            EncoderLayer(config, is_causal=True, dtype=dtype, key=k)
            for k in jr.split(lkey, config.num_hidden_layers)
        ]
        self.final_layer_norm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )
        self.config = config

    def with_rows(
        self, first: int, rows: Float[Array, "rows features"]
    ) -> "CLIPTextModel":
        """Makes the same model with rows of its token embedding replaced or added.

        **Arguments:**

        - `first`: The id of the first of them, at most the number of rows there are.
        - `rows`: One for each id from there on; cast to the dtype of the weights.
        """
        old, end = self.token_embedding, first + rows.shape[0]
        if not 0 <= first <= old.shape[0]:
            raise ValueError(
                f"`first` must be at least 0 and at most the number of rows, "
                f"{old.shape[0]}; got {first}."
            )
        new = jnp.concatenate([old[:first], rows.astype(old.dtype), old[end:]])
        config = dataclasses.replace(self.config, vocab_size=new.shape[0])
        # Of the new size; layers are handed on as they are, adapters included.
        model = eqx.filter_eval_shape(CLIPTextModel, config, key=jr.key(0))
        parts = lambda m: (m.position_embedding, m.layers, m.final_layer_norm)
        return eqx.tree_at(
            lambda m: (m.token_embedding, *parts(m)), model, (new, *parts(self))
        )

    @jax.named_scope("draftx.clip.text")
    def __call__(self, input_ids: InputIds) -> TextEmbeddings:
        """Encodes token ids `[batch, tokens]`.

        **Arguments:**

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
