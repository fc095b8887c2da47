from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Images, InputIds
from ...layers import LayerNorm, Remat
from ...models.clip import CLIPConfig
from ..clip import CLIPModel
from ._heads import BoxHead, ClassHead


class Detections(NamedTuple):
    """Holds what a detector says of every patch: mostly that nothing is there.

    **Fields:**

    - `logits`: Of each query, in float32; their sigmoids are the scores.
    - `boxes`: The center, width and height, in float32, as fractions of the image from
        its upper left corner. A box may reach beyond the image.
    """

    logits: Float[Array, "batch patches queries"]
    boxes: Float[Array, "batch patches 4"]


class OwlViTForObjectDetection(eqx.Module):
    """Finds in images what a text asks for: OWL-ViT, a CLIP whose patches answer.

    ??? cite

        [Simple Open-Vocabulary Object Detection with Vision Transformers](
        https://arxiv.org/abs/2205.06230), section 3.
    """

    owlvit: CLIPModel
    class_head: ClassHead
    box_head: BoxHead
    layer_norm: LayerNorm
    config: CLIPConfig = eqx.field(static=True)

    def __init__(
        self,
        config: CLIPConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: Of both towers, with which the sizes of the heads are given.
        - `dtype`: Of all weights but `owlvit.logit_scale`, as in
            [`draftx.judges.CLIPModel`][].
        - `key`: Used to initialize the weights.
        """
        key_1, key_2, key_3 = jr.split(key, 3)
        features = config.vision.hidden_size
        self.owlvit = CLIPModel(config, dtype=dtype, key=key_1)
        self.class_head = ClassHead(
            features, config.text.hidden_size, dtype=dtype, key=key_2
        )
        self.box_head = BoxHead(features, dtype=dtype, key=key_3)
        self.layer_norm = LayerNorm(
            features, epsilon=config.vision.layer_norm_eps, dtype=dtype
        )
        self.config = config

    def text_features(self, input_ids: InputIds) -> Float[Array, "batch embedding"]:
        """Embeds each query, `[batch, embedding]`, not normalized."""
        return self.owlvit.text_features(input_ids)

    @jax.named_scope("draftx.owlvit")
    def __call__(
        self,
        pixel_values: Images,
        queries: Float[Array, "#batch queries embedding"],
        *,
        remat: Remat = Remat.NONE,
    ) -> Detections:
        """Detects queries in images `[batch, height, width, 3]`.

        **Arguments:**

        - `pixel_values`: Channels last, normalized by CLIP's mean and deviation.
        - `queries`: Their embeddings, of any length: the same for all images, or those
            of each.
        - `remat`: As in [`draftx.judges.CLIPVisionModel`][].
        """
        hidden = self.owlvit.vision_model.hidden_states(pixel_values, remat=remat)
        # What the class token knows of the whole image scales what a patch knows.
        x = self.layer_norm(hidden[:, 1:] * hidden[:, :1])
        return Detections(self.class_head(x, queries), self.box_head(x))
