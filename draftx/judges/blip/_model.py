import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._custom_types import Images, InputIds
from ...layers import Remat
from .._aesthetic_head import AestheticHead
from .._vit import VisionTransformer
from ._config import ImageRewardConfig
from ._text import BertWithImage


class ImageRewardModel(eqx.Module):
    """Rates images for prompts: ImageReward.

    A BLIP that reads the prompt with the image before it.

    ??? cite

        [ImageReward](https://arxiv.org/abs/2304.05977), section 2.3.
    """

    vision: VisionTransformer
    text: BertWithImage
    head: AestheticHead
    config: ImageRewardConfig = eqx.field(static=True)

    def __init__(
        self,
        config: ImageRewardConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: The architecture.
        - `dtype`: Of all weights but the last five layers, which are float32: they are
            small, and a score is a small difference.
        - `key`: Used to initialize the weights.
        """
        vkey, tkey, hkey = jr.split(key, 3)
        self.vision = VisionTransformer(config.vision, dtype=dtype, key=vkey)
        self.text = BertWithImage(
            config.text, config.vision.hidden_size, dtype=dtype, key=tkey
        )
        self.head = AestheticHead(
            config.text.hidden_size, widths=config.head_widths, key=hkey
        )
        self.config = config

    @jax.named_scope("draftx.image_reward")
    def __call__(
        self,
        pixel_values: Images,
        input_ids: InputIds,
        lengths: Int[Array, " batch"],
        *,
        remat: Remat = Remat.NONE,
    ) -> Float[Array, " batch"]:
        """Rates images `[batch, height, width, 3]`, each for its prompt.

        **Arguments:**

        - `pixel_values`: Channels last, normalized by CLIP's mean and deviation.
        - `input_ids`, `lengths`, `remat`: As in [`draftx.judges.BertWithImage`][].

        **Returns:**

        Ratings as the head gives them, in float32.
        """
        image_tokens = self.vision(pixel_values, remat=remat)
        hidden = self.text(input_ids, lengths, image_tokens, remat=remat)
        return self.head(hidden[:, 0].astype(jnp.float32))
