import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._custom_types import Latents, TextEmbeddings
from ..models import UNet2DConditionModel


class Denoiser(eqx.Module):
    r"""A UNet with its conditioning: latents and a timestep to a prediction.

    With `negative_text_embeddings`, classifier-free guidance in one batched call:

    $$\hat\epsilon = \epsilon_\varnothing + w\,(\epsilon_c - \epsilon_\varnothing)$$

    ??? cite

        [Classifier-Free Diffusion Guidance](https://arxiv.org/abs/2207.12598),
        equation 6.
    """

    unet: UNet2DConditionModel
    text_embeddings: TextEmbeddings
    negative_text_embeddings: TextEmbeddings | None
    guidance_scale: Float[Array, ""] | None

    def __call__(self, latents: Latents, timestep: Int[Array, ""]) -> Latents:
        """The model's prediction, float32."""
        batch = latents.shape[0]
        if self.negative_text_embeddings is None or self.guidance_scale is None:
            timesteps = jnp.broadcast_to(timestep, (batch,))
            prediction = self.unet(latents, timesteps, self.text_embeddings)
            return prediction.astype(jnp.float32)
        # The two halves alternate instead of standing one after the other: an image
        # and its unguided twin then stay on one device when the batch is sharded.
        pair = lambda a, b: jnp.stack([a, b], axis=1).reshape(2 * batch, *a.shape[1:])
        timesteps = jnp.broadcast_to(timestep, (2 * batch,))
        embeddings = pair(self.negative_text_embeddings, self.text_embeddings)
        both = self.unet(pair(latents, latents), timesteps, embeddings)
        both = both.astype(jnp.float32).reshape(batch, 2, *both.shape[1:])
        negative, positive = both[:, 0], both[:, 1]
        return negative + self.guidance_scale * (positive - negative)
