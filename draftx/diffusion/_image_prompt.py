"""Pictures that images attend to beside their text."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..models import ImageTokens, TextContext


class ImagePrompt(eqx.Module):
    r"""Holds a picture for each image, whose tokens are attended to beside the text.

    **Arguments:**

    - `tokens`: Make tokens of embeddings, and were trained to.
    - `embeddings`: Of the pictures, one for each image.
    - `scale`: $s$, how much they weigh; they were trained with 1.
    - `in_negative`: Whether what guidance leads away from sees the pictures too. Where
        it does not, its embedding is zero, as training has it now and then.

    ??? cite

        [IP-Adapter](https://arxiv.org/abs/2308.06721), section 3.2.
    """

    tokens: ImageTokens
    embeddings: Float[Array, "rows embedding"]
    scale: Float[Array, ""]
    in_negative: bool = eqx.field(static=True, default=False)

    def beside(self, contexts: list[TextContext]) -> list[TextContext]:
        """Adds the pictures to what the blocks of a UNet are told of the text.

        **Arguments:**

        - `contexts`: One row for each of the embeddings.
        """
        return self.tokens.beside(contexts, self.embeddings, self.scale)

    def in_pairs(self) -> "ImagePrompt":
        """Puts what each image is led away from before what it is led to."""
        own = self.embeddings
        negative = own if self.in_negative else jnp.zeros_like(own)
        pairs = jnp.stack([negative, own], axis=1).reshape(-1, own.shape[1])
        return ImagePrompt(self.tokens, pairs, self.scale, self.in_negative)
