import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Images
from ...layers import checkpoint_if, LayerNorm, Remat
from ...models.clip import CLIPVisionConfig, EncoderLayer
from ..clip import embed_patches, prepend


# Of the cubic that PyTorch interpolates with.
_CUBIC = -0.75


class Dinov2Model(eqx.Module):
    """Encodes images as tokens that were trained without words: DINOv2.

    Patches that look alike, and are of alike things, have alike tokens. Of any size
    that its patches divide: what is added for the place of a patch is interpolated.

    ??? cite

        [DINOv2](https://arxiv.org/abs/2304.07193), section 4.
    """

    class_embedding: Float[Array, " features"]
    patch_embedding: Float[Array, "features 3 patch patch"]
    patch_bias: Float[Array, " features"]
    positions: Float[Array, "positions features"]
    blocks: list[EncoderLayer]
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
        places = 1 + (config.image_size // size) ** 2
        self.class_embedding = 0.02 * jr.normal(ckey, (features,), dtype)
        self.patch_embedding = 0.02 * jr.normal(wkey, (features, 3, size, size), dtype)
        self.patch_bias = jnp.zeros(features, dtype)
        self.positions = 0.02 * jr.normal(pkey, (places, features), dtype)
        self.blocks = [
            EncoderLayer(config, is_causal=False, dtype=dtype, key=k)
            for k in jr.split(lkey, config.num_hidden_layers)
        ]
        self.post_layernorm = LayerNorm(
            features, epsilon=config.layer_norm_eps, dtype=dtype
        )
        self.config = config

    def __call__(
        self, pixel_values: Images, *, remat: Remat = Remat.NONE
    ) -> Float[Array, "batch features"]:
        """Encodes images as the class token's last hidden state, `[batch, features]`.

        **Arguments:** those of `hidden_states`.

        **Arguments:**

        - `pixel_values`, `remat`: As there.
        """
        return self.hidden_states(pixel_values, remat=remat)[:, 0]

    @jax.named_scope("draftx.dinov2")
    def hidden_states(
        self, pixel_values: Images, *, remat: Remat = Remat.NONE
    ) -> Float[Array, "batch positions features"]:
        """Encodes images as the normed hidden states of all tokens.

        The class token comes first, then the patches from left to right and from top to
        bottom.

        **Arguments:**

        - `pixel_values`: Channels last, normalized by ImageNet's mean and deviation.
        - `remat`: Where its `scoring` is true, the backward pass computes the inside of
            every layer again rather than keeping it.
        """
        height, width = pixel_values.shape[1:3]
        size = self.config.patch_size
        if height % size or width % size or not (height and width):
            raise ValueError(
                f"`pixel_values` must have sides that patches of {size} divide; got "
                f"{height}x{width}."
            )
        x = embed_patches(pixel_values, self.patch_embedding)
        x = prepend(self.class_embedding, x + self.patch_bias[None, None])
        x = x + self._positions(height // size, width // size)[None]
        for block in self.blocks:
            x = checkpoint_if(remat.scoring, block)(x)
        return self.post_layernorm(x)

    def _positions(self, height: int, width: int) -> Float[Array, "positions features"]:
        """Those that were trained, of a square, for so many patches."""
        side = self.config.image_size // self.config.patch_size
        if (height, width) == (side, side):
            return self.positions
        first, square = self.positions[:1], self.positions[1:]
        square = square.reshape(side, side, -1).astype(jnp.float32)
        down, across = _cubic(side, height), _cubic(side, width)
        square = jnp.einsum("hi,wj,ijf->hwf", down, across, square)
        square = square.reshape(height * width, -1).astype(first.dtype)
        return jnp.concatenate([first, square])


def _cubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """What each of `new` places takes of `old` ones, as PyTorch interpolates."""
    matrix = np.zeros((new, old), np.float32)
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x, a = abs(place - j), _CUBIC
            if x <= 1:
                weight = (a + 2) * x**3 - (a + 3) * x**2 + 1
            else:
                weight = a * (x**3 - 5 * x**2 + 8 * x - 4)
            # Beyond the border is what is at it.
            matrix[i, min(max(j, 0), old - 1)] += weight
    return matrix
