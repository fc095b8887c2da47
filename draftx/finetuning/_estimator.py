import abc
from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import Images, Latents
from ..diffusion import DDIM, DDIMSteps, Denoiser, run_chain
from ..pipeline import Pipeline


class Episode(eqx.Module):
    """One batch of prompts and starting noise, and the model that will turn it into
    images: what a gradient estimator is given to work with."""

    pipeline: Pipeline
    denoiser: Denoiser
    steps: DDIMSteps
    latents: Latents

    @property
    def sampler(self) -> DDIM:
        return self.pipeline.sampler

    def run(self, truncation_steps: int | None) -> Latents:
        """Clean latents, differentiable through the last `truncation_steps` steps."""
        return run_chain(
            self.sampler,
            self.denoiser,
            self.steps,
            self.latents,
            truncation_steps=truncation_steps,
        )

    def decode(self, latents: Latents) -> Images:
        """Images in $[0, 1]$; their decoding is recomputed in the backward pass."""
        return eqx.filter_checkpoint(Pipeline.decode)(self.pipeline, latents)


class AbstractGradientEstimator(eqx.Module):
    r"""How the gradient of $\mathbb{E}[r(x_0)]$ is estimated.

    An estimator is a differentiable objective: the gradient of its value with respect
    to the adapter *is* the estimate. What must not be differentiated is stopped inside.
    """

    @abc.abstractmethod
    def check(self, num_inference_steps: int) -> None:
        """Raises a `ValueError` if a chain of this length is too short."""

    @abc.abstractmethod
    def __call__(
        self,
        episode: Episode,
        reward: Callable[[Images], Float[Array, " batch"]],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        """**Arguments:**

        - `episode`: Prompts, noise and model.
        - `reward`: Images to one score each.
        - `key`: For estimators that draw more noise.

        **Returns:**

        The objective, and the reward of every image of the chain.
        """
