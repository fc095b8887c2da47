import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import checkpoint_if, LayerNorm, Remat
from ...models.clip import CLIPVisionConfig, EncoderLayer
from ..clip import embed_patches, prepend


class BlipVisionModel(eqx.Module):
    """Encodes images as normed hidden states of their tokens: BLIP's image encoder.

    CLIP's vision tower but for a bias of the patches, and no norm before the layers.

    ??? cite

        [BLIP](https://arxiv.org/abs/2201.12086), section 3.1.
    """

    class_embedding: Float[Array, " features"]
    patch_embedding: Float[Array, "features 3 patch patch"]
    patch_bias: Float[Array, " features"]
    position_embedding: Float[Array, "positions features"]
    layers: list[EncoderLayer]
    post_layernorm: LayerNorm
    config: CLIPVisionConfig = eqx.field(static=True)

    def __init__(
        self,
        config: CLIPVisionConfig,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `config`: The architecture.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        ckey, pkey, wkey, lkey = jr.split(key, 4)
        features, size = config.hidden_size, config.patch_size
        positions = 1 + (config.image_size // size) ** 2
        self.class_embedding = 0.02 * jr.normal(ckey, (features,), dtype)
        self.patch_embedding = 0.02 * jr.normal(wkey, (features, 3, size, size), dtype)
        self.patch_bias = jnp.zeros(features, dtype)
        self.position_embedding = 0.02 * jr.normal(pkey, (positions, features), dtype)
        self.layers = [
            EncoderLayer(config, is_causal=False, dtype=dtype, key=k)
            for k in jr.split(lkey, config.num_hidden_layers)
        ]
        self.post_layernorm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )
        self.config = config

    @jax.named_scope("draftx.blip.vision")
    def __call__(
        self,
        pixel_values: Float[
            Array, "batch {self.config.image_size} {self.config.image_size} 3"
        ],
        *,
        remat: Remat = Remat.NONE,
    ) -> Float[Array, "batch positions features"]:
        """Encodes images `[batch, height, width, 3]`.

        **Arguments:**

        - `pixel_values`: Channels last, normalized by CLIP's mean and deviation.
        - `remat`: Where its `scoring` is true, the backward pass computes the inside of
            every layer again rather than keeping it.

        **Returns:**

        The class token, then the patches from left to right and from top to bottom.
        """
        x = embed_patches(pixel_values, self.patch_embedding)
        x = prepend(self.class_embedding, x + self.patch_bias[None, None])
        x = x + self.position_embedding[None]
        for layer in self.layers:
            x = checkpoint_if(remat.scoring, layer)(x)
        return self.post_layernorm(x)
