"""The vision transformer of several judges, and how it is given patches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import Images
from ..layers import checkpoint_if, LayerNorm, Remat
from ..models.clip import CLIPVisionConfig, EncoderLayer


class VisionTransformer(eqx.Module):
    """Encodes images as normed hidden states of their tokens.

    CLIP's vision tower but for a bias of the patches, and no norm before the layers:
    BLIP's image encoder, and a DINOv2 whose factors of residuals are in its weights.

    ??? cite

        [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929), section 3.1.
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

    @jax.named_scope("draftx.vision_transformer")
    def __call__(
        self,
        pixel_values: Images,
        positions: Float[Array, "positions features"] | None = None,
        *,
        remat: Remat = Remat.NONE,
    ) -> Float[Array, "batch positions features"]:
        """Encodes images `[batch, height, width, 3]`.

        **Arguments:**

        - `pixel_values`: Channels last, normalized as in training.
        - `positions`: Added to the tokens of images of another size than the config's;
            `None` is `position_embedding`.
        - `remat`: Where its `scoring` is true, the backward pass computes the inside of
            every layer again rather than keeping it.

        **Returns:**

        The class token, then the patches from left to right and from top to bottom.
        """
        positions = self.position_embedding if positions is None else positions
        x = embed_patches(pixel_values, self.patch_embedding)
        x = prepend(self.class_embedding, x + self.patch_bias[None, None])
        x = x + positions[None]
        for layer in self.layers:
            x = checkpoint_if(remat.scoring, layer)(x)
        return self.post_layernorm(x)


def embed_patches(
    pixel_values: Images, weight: Float[Array, "features 3 patch patch"]
) -> Float[Array, "batch patches features"]:
    """Embeds every patch of images by itself: a convolution as wide as its stride.

    **Arguments:**

    - `pixel_values`: Channels last.
    - `weight`: In the order of checkpoints, `OIHW`.
    """
    size = weight.shape[-1]
    patches = rearrange(
        pixel_values.astype(weight.dtype),
        "b (h p) (w q) c -> b (h w) c p q",
        p=size,
        q=size,
    )
    return jnp.einsum("btcpq,fcpq->btf", patches, weight)


def prepend(
    token: Float[Array, " features"], x: Float[Array, "batch patches features"]
) -> Float[Array, "batch positions features"]:
    """Puts the same first token before the tokens of every image.

    **Arguments:**

    - `token`: The same for all rows.
    - `x`: The tokens that follow.
    """
    first = jnp.broadcast_to(token[None, None], (x.shape[0], 1, x.shape[2]))
    return jnp.concatenate([first, x], axis=1)
