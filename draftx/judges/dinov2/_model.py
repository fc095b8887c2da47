import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..._custom_types import Images
from ...layers import Remat
from ...models.clip import CLIPVisionConfig
from .._vit import VisionTransformer


# Of the cubic that PyTorch interpolates with.
_CUBIC = -0.75


class Dinov2Model(eqx.Module):
    """Encodes images as tokens that were trained without words: DINOv2.

    Patches that look alike, and are of alike things, have alike tokens. Of any size
    that its patches divide: what is added for the place of a patch is interpolated.

    ??? cite

        [DINOv2](https://arxiv.org/abs/2304.07193), section 4.
    """

    vit: VisionTransformer
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
        self.vit = VisionTransformer(config, dtype=dtype, key=key)
        self.config = config

    def __call__(
        self, pixel_values: Images, *, remat: Remat = Remat.NONE
    ) -> Float[Array, "batch features"]:
        """Encodes images as the class token's last hidden state, `[batch, features]`.

        **Arguments:**

        - `pixel_values`, `remat`: As in `hidden_states`.
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
        - `remat`: As in [`draftx.judges.VisionTransformer`][].
        """
        height, width = pixel_values.shape[1:3]
        size = self.config.patch_size
        if height % size or width % size or not (height and width):
            raise ValueError(
                f"`pixel_values` must have sides that patches of {size} divide; got "
                f"{height}x{width}."
            )
        positions = self._positions(height // size, width // size)
        return self.vit(pixel_values, positions, remat=remat)

    def _positions(self, height: int, width: int) -> Float[Array, "positions features"]:
        """Those that were trained, of a square, for so many patches."""
        side = self.config.image_size // self.config.patch_size
        positions = self.vit.position_embedding
        if (height, width) == (side, side):
            return positions
        first, square = positions[:1], positions[1:]
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
