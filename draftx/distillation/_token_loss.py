"""The loss that tokens of pictures are trained with, and what it is computed of."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._custom_types import Latents, TextEmbeddings
from .._table import Table
from ..diffusion import mix, training_target
from ..layers import Remat
from ..lora import premerge, without_lora
from ..models import ImageTokens, iter_linears
from ..pipeline import (
    condition,
    Conditioning,
    encode_texts,
    latent_shape,
    Pipeline,
    sample_rows,
    Sampling,
)
from ._pictures import encode
from ._token_prompt import Embed, embed_pictures


# Of the pictures without their text; as many are without their embedding, and as many
# without both.
_DROPPED = 0.05


class TokenLoss(eqx.Module):
    """Noises pictures, and measures what the model then predicts of them.

    **Arguments:**

    - `pipeline`: The model.
    - `clean`: Latents of all pictures.
    - `embeddings`: Of all pictures.
    - `conditioning`: Of their prompts; the negative prompt is the empty one.
    - `key`: Draws pictures, times and noise of all steps.
    """

    pipeline: Pipeline
    clean: Latents
    embeddings: Float[Array, "images embedding"]
    conditioning: Conditioning
    key: PRNGKeyArray

    def __call__(
        self, tokens: ImageTokens, step: Int[Array, ""], batch_size: int
    ) -> Float[Array, ""]:
        """Computes the mean squared error of some pictures.

        **Arguments:**

        - `tokens`: Tell the model of the pictures.
        - `step`: Draws, with the key, all that is random.
        - `batch_size`: How many pictures.
        """
        row_key, time_key, noise_key, drop_key = jr.split(jr.fold_in(self.key, step), 4)
        rows = jr.randint(row_key, (batch_size,), 0, len(self.clean))
        clean, told = self.clean[rows], self.conditioning.take(rows)
        config = self.pipeline.sampler.config
        last = config.num_train_timesteps
        timesteps = jr.randint(time_key, (batch_size,), 0, last)
        alpha = jnp.asarray(config.alphas_cumprod())[timesteps][:, None, None, None]
        levels = jnp.sqrt(alpha), jnp.sqrt(1 - alpha)
        noise = jr.normal(noise_key, clean.shape, clean.dtype)
        latents = mix(clean, noise, *levels)
        if told.channels is not None:
            latents = jnp.concatenate([latents, told.channels], axis=-1)
        drawn = jr.uniform(drop_key, (batch_size,))
        text = self._texts(told, drawn < 2 * _DROPPED)
        without = (drawn >= _DROPPED) & (drawn < 3 * _DROPPED)
        embeddings = jnp.where(without[:, None], 0, self.embeddings[rows])
        unet = premerge(self.pipeline.unet)
        context = tokens.beside(unet.text_context(text), embeddings, jnp.ones(()))
        # Little more than the feature maps is kept for the backward pass.
        prediction = unet.denoise(
            latents, unet.time_shifts(timesteps), context, remat=Remat.BLOCK
        )
        wanted = training_target(config.prediction_type, clean, noise, *levels)
        return jnp.mean((prediction.astype(jnp.float32) - wanted) ** 2)

    def _texts(self, told: Conditioning, without: Array) -> TextEmbeddings:
        assert told.negative_input_ids is not None
        embed = self.pipeline.embed
        text = embed(told.input_ids, told.embeddings)
        empty = embed(told.negative_input_ids, told.negative_embeddings)
        return jnp.where(without[:, None, None], empty, text)


def make_examples(
    pipeline: Pipeline,
    embed: Embed,
    table: Table,
    sampling: Sampling,
    *,
    images: Float[np.ndarray, "..."] | None,
    key: PRNGKeyArray,
    size: int,
) -> TokenLoss:
    """Draws pictures, unless they are given, and computes what is needed of them once.

    **Arguments:**

    - `pipeline`, `embed`, `sampling`: As for `fit_image_tokens`.
    - `table`: One row for each picture.
    - `images`: Given ones, or `None`.
    - `key`: Draws them.
    - `size`: So many are drawn, encoded and embedded at a time.
    """
    count = len(table)
    # What is wrong with the rows is said before pictures are drawn and encoded.
    shape = (count, *latent_shape(pipeline, sampling))
    conditioning = condition(pipeline, table, sampling, shape)
    given: Any = images
    if images is None:
        given = sample_rows(pipeline, table, sampling, key=key, images_at_once=size)
    shown = np.asarray(given)
    clean, embeddings = [], []
    for start in range(0, count, size):
        # The last ones are filled up: one program for all.
        part = jnp.asarray(shown[np.arange(start, start + size) % count])
        clean.append(encode(pipeline, part))
        embeddings.append(embed_pictures(embed, part))
    clean = jnp.concatenate(clean)[:count].astype(jnp.float32)
    embeddings = jnp.concatenate(embeddings)[:count]
    conditioning = dataclasses.replace(
        conditioning, negative_input_ids=pipeline.tokenize([""])
    )
    pipeline, conditioning = encode_texts(pipeline, conditioning)
    return TokenLoss(pipeline, clean, embeddings, conditioning, key)


def new_tokens(
    pipeline: Pipeline, embedding_features: int, key: PRNGKeyArray
) -> ImageTokens:
    """Makes four tokens, whose keys and values begin as those of the text.

    **Arguments:**

    - `pipeline`: Whose UNet they are for.
    - `embedding_features`: Of the embedding of a picture.
    - `key`: Draws the projection of the embedding.
    """
    config = pipeline.unet.config
    tokens = ImageTokens(config, embedding_features=embedding_features, key=key)
    of_text = {
        name: layer
        for name, layer in iter_linears(without_lora(pipeline.unet))
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    }
    # Files have the middle last.
    names = sorted(of_text, key=lambda name: name.startswith("mid_block"))
    weights = [_weight(of_text[name]) for name in names]
    where = lambda tokens: [
        layer.weight for pair in tokens.layers for layer in (pair.to_k_ip, pair.to_v_ip)
    ]
    return eqx.tree_at(where, tokens, weights)


def _weight(layer: Any) -> Float[Array, "inner features"]:
    return layer.weight.astype(jnp.float32)
