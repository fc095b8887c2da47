"""How much people like an image, whatever it shows."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from ...judges import AestheticHead, CLIPVisionModelWithProjection
from .._preprocess import clip_preprocess
from ..contract import AbstractReward
from ._similarity import image_embeddings


class AestheticScore(AbstractReward):
    """The LAION aesthetic predictor: a rating from about 1 to 10, not bounded.

    A linear function of the unit embedding that CLIP ViT-L/14 has of the image; most
    pictures rate 4 to 7. It looks at no prompt.

    Images are preprocessed as for [`draftx.rewards.CLIPScore`][].

    !!! info

        `draftx.rewards.load("aesthetic")` reads the image half of CLIP as
        [`draftx.rewards.CLIPScore`][] does, and `aesthetic-model.pth` of
        `trl-lib/ddpo-aesthetic-predictor` at revision `cf4bd1034561`, which is
        `sac+logos+ava1-l14-linearMSE.pth` of LAION. License: Apache 2.0; CLIP's: MIT.

    ??? cite

        [LAION-5B](https://arxiv.org/abs/2210.08402), appendix on aesthetics; as a
        reward in [DDPO](https://arxiv.org/abs/2305.13301), section 5.1.
    """

    encoder: CLIPVisionModelWithProjection
    head: AestheticHead
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        encoder: CLIPVisionModelWithProjection,
        head: AestheticHead,
        *,
        remat: bool = True,
    ):
        """**Arguments:**

        - `encoder`: The image half of CLIP ViT-L/14.
        - `head`: Trained on its embeddings; float32.
        - `remat`: As in [`draftx.judges.CLIPVisionModel`][].
        """
        features = head.linears[0].in_features
        if features != encoder.config.projection_dim:
            raise ValueError(
                "`head` must take the encoder's embeddings, of size "
                f"{encoder.config.projection_dim}; got a head for size {features}. The "
                "published one is for CLIP ViT-L/14."
            )
        self.encoder = encoder
        self.head = head
        self.remat = remat

    def embeddings(self, images: Images) -> Float[Array, "batch features"]:
        """What the head is given: unit embeddings, in its dtype."""
        pixels = clip_preprocess(images, self.encoder.config.vision.image_size)
        embeddings = image_embeddings(self.encoder, pixels, remat=self.remat)
        return embeddings.astype(self.head.dtype)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        del prompts
        return self.head(self.embeddings(images)).astype(jnp.float32)
