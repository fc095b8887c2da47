import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Images
from ...layers import checkpoint_if, LayerNorm, Remat
from ...models.clip import CLIPVisionConfig, EncoderLayer
from .._vit import embed_patches, prepend


class CLIPVisionModel(eqx.Module):
    """Encodes images as `[batch, features]`: CLIP's vision tower.

    What it gives is the normed hidden state of the class token.

    ??? cite

        [Learning Transferable Visual Models From Natural Language Supervision](
        https://arxiv.org/abs/2103.00020), section 2.4.
    """

    class_embedding: Float[Array, " features"]
    # As in the file. Patches do not overlap, so it is a matrix and no convolution.
    patch_embedding: Float[Array, "features 3 patch patch"]
    position_embedding: Float[Array, "positions features"]
    # The name in published files, misspelled there.
    pre_layrnorm: LayerNorm
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
        features, epsilon = config.hidden_size, config.layer_norm_eps
        num_patches = (config.image_size // config.patch_size) ** 2
        patch = (features, 3, config.patch_size, config.patch_size)
        self.class_embedding = features**-0.5 * jr.normal(ckey, (features,), dtype)
        self.patch_embedding = 0.02 * jr.normal(wkey, patch, dtype)
        self.position_embedding = 0.02 * jr.normal(
            pkey, (1 + num_patches, features), dtype
        )
        self.pre_layrnorm = LayerNorm(features, epsilon=epsilon, dtype=dtype)
        self.layers = [
            EncoderLayer(config, is_causal=False, dtype=dtype, key=k)
            for k in jr.split(lkey, config.num_hidden_layers)
        ]
        self.post_layernorm = LayerNorm(features, epsilon=epsilon, dtype=dtype)
        self.config = config

    def __call__(
        self,
        pixel_values: Float[
            Array, "batch {self.config.image_size} {self.config.image_size} 3"
        ],
        *,
        remat: Remat = Remat.NONE,
    ) -> Float[Array, "batch features"]:
        """Encodes images `[batch, height, width, 3]`.

        **Arguments:**

        - `pixel_values`: Channels last, normalized by CLIP's mean and deviation.
        - `remat`: Where its `scoring` is true, the backward pass computes the inside of
            every layer again rather than keeping it.

        **Returns:**

        The class token's last hidden state, in the dtype of the weights.
        """
        return self.post_layernorm(self._encode(pixel_values, remat=remat)[:, 0])

    def hidden_states(
        self, pixel_values: Images, *, remat: Remat = Remat.NONE
    ) -> Float[Array, "batch positions features"]:
        """Encodes images as the normed hidden states of all tokens.

        The class token comes first, then the patches from left to right and from top to
        bottom.

        **Arguments:**

        - `pixel_values`: Channels last, normalized.
        - `remat`: What the backward pass computes again.
        """
        return self.post_layernorm(self._encode(pixel_values, remat=remat))

    @jax.named_scope("draftx.clip.vision")
    def _encode(
        self, pixel_values: Images, *, remat: Remat
    ) -> Float[Array, "batch positions features"]:
        x = embed_patches(pixel_values, self.patch_embedding)
        x = prepend(self.class_embedding, x) + self.position_embedding[None]
        x = self.pre_layrnorm(x)
        for layer in self.layers:
            x = checkpoint_if(remat.scoring, layer)(x)
        return x
