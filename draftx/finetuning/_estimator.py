import abc
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import attach_gradient
from .._custom_types import Images, Latents
from ..diffusion import DDIM, DDIMSteps, Denoiser, run_chain
from ..layers import checkpoint_if, Remat
from ..pipeline import Pipeline


# Any function of images that gives one score an image, larger is better.
Reward: TypeAlias = Callable[[Images], Float[Array, " batch"]]


class Episode(eqx.Module):
    """One batch of prompts and starting noise, the model that will turn it into images
    and the reward that they will get: what a gradient estimator is given to work with.

    `remat` says what the backward pass computes again instead of keeping it, and
    `images_at_once` how many images are decoded and rewarded at a time (`None`: all).
    """

    pipeline: Pipeline
    denoiser: Denoiser
    steps: DDIMSteps
    latents: Latents
    reward: Reward
    remat: Remat = eqx.field(static=True)
    images_at_once: int | None = eqx.field(static=True)

    @property
    def sampler(self) -> DDIM:
        return self.pipeline.sampler

    def run(self, truncation_steps: int | Int[Array, ""] | None) -> Latents:
        """Clean latents, differentiable through the last `truncation_steps` steps."""
        return run_chain(
            self.sampler,
            self.denoiser,
            self.steps,
            self.latents,
            truncation_steps=truncation_steps,
            checkpoint_steps=self.remat == "step",
        )

    def score(self, latents: Latents) -> Float[Array, " batch"]:
        """The rewards of the images that clean latents decode to.

        With `images_at_once`, a few after the other, and the gradient of their rewards
        at once: no more than these few are ever in memory. Each image must then be
        scored on its own, whatever else is in the batch.
        """
        size = self.images_at_once
        if size is None or size == latents.shape[0]:
            return _score(latents, self.pipeline, self.reward, self.remat)
        # Neighbors go to different groups: a batch that is split over as many devices
        # as there are images in a group then keeps all of them busy.
        split = lambda x: x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1)
        join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

        def total(group):
            rewards = _score(group, self.pipeline, self.reward, self.remat)
            return jnp.sum(rewards), rewards

        def body(_, group):
            return None, jax.grad(total, has_aux=True)(group)

        groups = lax.stop_gradient(split(latents))
        _, (gradient, rewards) = lax.scan(body, None, groups)
        return attach_gradient(join(rewards), latents, join(gradient))


def _score(latents, pipeline, reward, remat) -> Float[Array, " batch"]:
    again = remat in ("block", "step")
    images = pipeline.decode(latents, remat="block" if again else "none")
    return checkpoint_if(again, reward)(images).astype(jnp.float32)


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
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        """**Arguments:**

        - `episode`: Prompts, noise, model and reward.
        - `key`: For estimators that draw more noise.

        **Returns:**

        The objective, and the reward of every image of the chain.
        """
