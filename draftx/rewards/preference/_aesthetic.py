"""How much people like an image, whatever it shows."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from ...judges import AestheticHead, CLIPVisionModelWithProjection
from ...layers import Remat
from .._preprocess import clip_preprocess
from ..contract import AbstractReward
from ._similarity import image_embeddings


class AestheticScore(AbstractReward):
    """Rates images by the LAION aesthetic predictor: from about 1 to 10, not bounded.

    A linear function of the unit embedding that CLIP ViT-L/14 has of the image; most
    images rate 4 to 7. It looks at no prompt.

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
    remat: Remat = eqx.field(static=True)

    def __init__(
        self,
        encoder: CLIPVisionModelWithProjection,
        head: AestheticHead,
        *,
        remat: Remat | str = Remat.BLOCK,
    ):
        """**Arguments:**

        - `encoder`: The image half of CLIP ViT-L/14.
        - `head`: Trained on its embeddings; float32.
        - `remat`: As in [`draftx.rewards.CLIPScore`][].
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
        self.remat = Remat(remat)

    def embeddings(self, images: Images) -> Float[Array, "batch features"]:
        """Embeds images as unit vectors, in the head's dtype: what it is given."""
        pixels = clip_preprocess(images, self.encoder.config.vision.image_size)
        embeddings = image_embeddings(self.encoder, pixels, remat=self.remat)
        return embeddings.astype(self.head.dtype)

    @jax.named_scope("draftx.rewards.AestheticScore")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        return self.head(self.embeddings(images)).astype(jnp.float32)
