"""Predictions beside pictures that images attend to, and guidance of two models."""

import equinox as eqx
from jaxtyping import Array, Float, Int

from .._custom_types import Latents
from ._denoiser import AbstractDenoiser
from ._interpolant import mix


class Reference(eqx.Module):
    r"""Holds pictures that images attend to, noised at every step as the images are.

    Where an image attends to itself, in all layers of a UNet, it also attends to the
    tokens of its picture: their keys and values, $[K; K_v]$ and $[V; V_v]$, at the same
    noise level. It needs no training.

    **Arguments:**

    - `latents`: Of the pictures, clean. As many images belong to each, one after the
        other.
    - `noise`: Unit-variance, one for each; the same at all steps.
    - `signal`, `sigma`: $\alpha_t$ and $\sigma_t$ of every step.

    ??? cite

        [MasaCtrl](https://arxiv.org/abs/2304.08465), section 3, takes the place of an
        image's own keys and values; appending is how "reference-only" ControlNet and
        the `stable_diffusion_reference` pipeline of diffusers have it.
    """

    latents: Latents
    noise: Latents
    signal: Float[Array, " steps"]
    sigma: Float[Array, " steps"]

    def __len__(self) -> int:
        """The number of pictures."""
        return self.latents.shape[0]

    def at(self, index: Int[Array, ""]) -> Latents:
        """Noises the pictures to a step."""
        return mix(self.latents, self.noise, self.signal[index], self.sigma[index])


class Guided(AbstractDenoiser):
    r"""Guides one denoiser away from another: classifier-free guidance in two calls.

    $$\hat\epsilon = \epsilon_- + w\,(\epsilon_+ - \epsilon_-)$$

    [`draftx.diffusion.Denoiser`][] guides in one call, where only the text differs.

    **Arguments:**

    - `positive`, `negative`: What to follow, and what to lead away from.
    - `guidance_scale`: $w$.
    """

    positive: AbstractDenoiser
    negative: AbstractDenoiser
    guidance_scale: Float[Array, ""]

    def __call__(self, latents: Latents, index: Int[Array, ""]) -> Latents:
        negative = self.negative(latents, index)
        positive = self.positive(latents, index)
        return negative + self.guidance_scale * (positive - negative)
