import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._custom_types import Images, InputIds
from ...layers import AbstractLinear, Linear, Remat
from ...models.clip import CLIPConfig, CLIPTextModel
from ._vision import CLIPVisionModel


class CLIPModel(eqx.Module):
    """Embeds images and prompts in one space: both towers of CLIP.

    ??? cite

        [Learning Transferable Visual Models From Natural Language Supervision](
        https://arxiv.org/abs/2103.00020), figure 3.
    """

    text_model: CLIPTextModel
    vision_model: CLIPVisionModel
    text_projection: AbstractLinear
    visual_projection: AbstractLinear
    logit_scale: Float[Array, ""]
    config: CLIPConfig = eqx.field(static=True)

    def __init__(
        self,
        config: CLIPConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: The architecture.
        - `dtype`: Of all weights but `logit_scale`, which is float32: a logarithm of
            100 in bfloat16 would be 1% off.
        - `key`: Used to initialize the weights.
        """
        tkey, vkey, key_1, key_2 = jr.split(key, 4)
        self.text_model = CLIPTextModel(config.text, dtype=dtype, key=tkey)
        self.vision_model = CLIPVisionModel(config.vision, dtype=dtype, key=vkey)
        self.text_projection = Linear(
            config.text.hidden_size,
            config.projection_dim,
            use_bias=False,
            dtype=dtype,
            key=key_1,
        )
        self.visual_projection = _visual_projection(config, dtype=dtype, key=key_2)
        self.logit_scale = jnp.asarray(math.log(1 / 0.07), jnp.float32)
        self.config = config

    def text_features(self, input_ids: InputIds) -> Float[Array, "batch embedding"]:
        """Embeds each prompt, `[batch, embedding]`, not normalized.

        Read at the end of the prompt: padding behind it changes nothing.
        """
        hidden = self.text_model(input_ids)
        end = end_positions(input_ids, self.config.eos_token_id)
        pooled = jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0]
        return self.text_projection(pooled)

    def image_features(
        self, pixel_values: Images, *, remat: Remat = Remat.NONE
    ) -> Float[Array, "batch embedding"]:
        """Embeds each image, `[batch, embedding]`, not normalized.

        **Arguments:** those of [`draftx.judges.CLIPVisionModel`][].

        **Arguments:**

        - `pixel_values`: Channels last, normalized.
        - `remat`: What the backward pass computes again.
        """
        return self.visual_projection(self.vision_model(pixel_values, remat=remat))


class CLIPVisionModelWithProjection(eqx.Module):
    """Embeds images: half of a CLIP."""

    vision_model: CLIPVisionModel
    visual_projection: AbstractLinear
    config: CLIPConfig = eqx.field(static=True)

    def __init__(
        self,
        config: CLIPConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: Of both towers.
        - `dtype`: Of the weights.
        - `key`: Draws the weights.
        """
        vkey, pkey = jr.split(key)
        self.vision_model = CLIPVisionModel(config.vision, dtype=dtype, key=vkey)
        self.visual_projection = _visual_projection(config, dtype=dtype, key=pkey)
        self.config = config

    def image_features(
        self, pixel_values: Images, *, remat: Remat = Remat.NONE
    ) -> Float[Array, "batch embedding"]:
        """Embeds each image, as [`draftx.judges.CLIPModel`][] does.

        **Arguments:**

        - `pixel_values`: Channels last, normalized.
        - `remat`: What the backward pass computes again.
        """
        return self.visual_projection(self.vision_model(pixel_values, remat=remat))


def end_positions(input_ids: InputIds, eos_token_id: int) -> Int[Array, " batch"]:
    """Finds where each prompt ends; see [`draftx.models.CLIPConfig`][]."""
    if eos_token_id == 2:
        return jnp.argmax(input_ids, axis=1)
    return jnp.argmax(input_ids == eos_token_id, axis=1)


def _visual_projection(config: CLIPConfig, *, dtype, key: PRNGKeyArray) -> Linear:
    return Linear(
        config.vision.hidden_size,
        config.projection_dim,
        use_bias=False,
        dtype=dtype,
        key=key,
    )
