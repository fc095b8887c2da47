import abc

import equinox as eqx
from jaxtyping import Array, Int

from .._custom_types import Latents


class AbstractDenoiser(eqx.Module):
    """Predicts the noise at one sampling step: a model with its conditioning."""

    @abc.abstractmethod
    def __call__(self, latents: Latents, index: Int[Array, ""]) -> Latents:
        """Predicts noise, sample or velocity, as the model was trained; float32.

        **Arguments:**

        - `latents`: At that step.
        - `index`: Of the step in the chain, 0 the noisiest.
        """
