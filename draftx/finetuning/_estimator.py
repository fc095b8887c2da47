import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import attach_gradient, stop_gradient
from .._checks import is_whole
from .._custom_types import Images, Latents
from ..diffusion import (
    AbstractDenoiser,
    DDIM,
    DDIMSteps,
    run_chain,
    run_chain_with_cost,
    run_frozen,
    step_noise,
)
from ..kernels import at_least_float32
from ..layers import checkpoint_if, Remat
from ._budget import Budget


# Gives one score an image, larger is better: any function of images, or of images and
# what an `AbstractReward` prepared of the prompts.
Reward: TypeAlias = Callable[..., Float[Array, " batch"]]


class AbstractPenalty(eqx.Module):
    """What predictions of the model are charged, image by image."""

    @abc.abstractmethod
    def of_prediction(
        self, latents: Latents, prediction: Latents, index: Int[Array, ""]
    ) -> Float[Array, " batch"]:
        """For the prediction at one step of the chain, its latents a constant."""

    @abc.abstractmethod
    def __call__(
        self,
        denoiser: AbstractDenoiser,
        latents: Latents,
        prediction: Latents,
        step: DDIMSteps,
        index: Int[Array, ""],
    ) -> Float[Array, " batch"]:
        """For one differentiated step of a chain: a `draftx.diffusion.StepCost`."""


class Episode(eqx.Module):
    """One batch of prompts and starting noise, the model that will turn it into images
    and the reward that they will get: what a gradient estimator is given to work with.

    `decoder` turns latents into images, and is told `remat`. `prompts` is what the
    reward prepared of the prompts, one row for each image. `remat` says what the
    backward pass computes again instead of keeping it, and `images_at_once` how many
    images are decoded and rewarded at a time (`None`: all). `noise_key` draws the noise
    of the steps (`None`: there is none). `base` makes a denoiser of the model without
    its adapter, and `penalty` is what estimators subtract for their differentiated
    steps (`None`: nothing); see `Penalized`.
    """

    sampler: DDIM
    denoiser: AbstractDenoiser
    decoder: Callable[..., Images]
    steps: DDIMSteps
    latents: Latents
    reward: Reward
    prompts: Any
    remat: Remat = eqx.field(static=True)
    images_at_once: int | None = eqx.field(static=True)
    noise_key: PRNGKeyArray | None = None
    base: Callable[[], AbstractDenoiser] | None = None
    penalty: AbstractPenalty | None = None

    def frozen_denoiser(self) -> AbstractDenoiser:
        """The denoiser as a constant."""
        return stop_gradient(self.denoiser)

    def run_frozen(self, stop: int | Int[Array, ""]) -> Latents:
        """The latents before step `stop`, a constant."""
        return run_frozen(
            self.sampler,
            self.denoiser,
            self.steps,
            self.latents,
            0,
            stop,
            key=self.noise_key,
        )

    def run(self, truncation_steps: int | Int[Array, ""] | None) -> Latents:
        """Clean latents, differentiable through the last `truncation_steps` steps."""
        return run_chain(
            self.sampler,
            self.denoiser,
            self.steps,
            self.latents,
            truncation_steps=truncation_steps,
            key=self.noise_key,
            checkpoint_steps=self.remat in ("step", "nested"),
        )

    def run_penalized(
        self, truncation_steps: int | Int[Array, ""] | None
    ) -> tuple[Latents, Float[Array, ""] | float]:
        """`run`, and the mean penalty of the differentiated steps."""
        if self.penalty is None:
            return self.run(truncation_steps), 0.0
        latents, penalties = run_chain_with_cost(
            self.sampler,
            self.denoiser,
            self.steps,
            self.latents,
            self.penalty,
            truncation_steps=truncation_steps,
            key=self.noise_key,
            checkpoint_steps=self.remat in ("step", "nested"),
        )
        assert penalties is not None
        k = len(self.steps) if truncation_steps is None else truncation_steps
        k = k if isinstance(k, int) else k.astype(penalties.dtype)
        return latents, jnp.mean(penalties) / k

    def penalize(
        self, latents: Latents, prediction: Latents, index: Int[Array, ""]
    ) -> Float[Array, ""] | float:
        """The mean penalty of one prediction at constant latents."""
        if self.penalty is None:
            return 0.0
        return jnp.mean(self.penalty.of_prediction(latents, prediction, index))

    def step(
        self, latents: Latents, prediction: Latents, index: Int[Array, ""]
    ) -> Latents:
        """One update of the chain, by a prediction at step `index`."""
        noise = step_noise(self.noise_key, index, latents)
        return self.sampler.step(latents, prediction, self.steps[index], noise)

    def score(self, latents: Latents) -> Float[Array, " batch"]:
        """The rewards of the images that clean latents decode to.

        With `images_at_once`, a few after the other, and the gradient of their rewards
        at once: no more than these few are ever in memory. Each image must then be
        scored on its own, whatever else is in the batch.
        """
        size = self.images_at_once
        if size is None or size == latents.shape[0]:
            return self._score(latents, self.prompts)
        # Neighbors go to different groups: a batch that is split over as many devices
        # as there are images in a group then keeps all of them busy.
        split = lambda x: x.reshape(size, -1, *x.shape[1:]).swapaxes(0, 1)
        join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

        def total(latents, prompts):
            rewards = self._score(latents, prompts)
            return jnp.sum(rewards), rewards

        def body(_, group):
            return None, jax.grad(total, has_aux=True)(*group)

        groups = jax.tree.map(split, (lax.stop_gradient(latents), self.prompts))
        _, (gradient, rewards) = lax.scan(body, None, groups)
        return attach_gradient(join(rewards), latents, join(gradient))

    def _score(self, latents: Latents, prompts: Any) -> Float[Array, " batch"]:
        again = self.remat in ("block", "step", "nested")
        images = self.decoder(latents, remat="block" if again else "none")
        call = checkpoint_if(again, call_reward)
        rewards = call(self.reward, images, prompts)
        return rewards.astype(at_least_float32(rewards.dtype))


def call_reward(reward: Reward, images: Images, prompts: Any) -> Array:
    """A reward that prepared nothing may be a function of the images alone."""
    return reward(images) if prompts is None else reward(images, prompts)


def check_steps(
    name: str, value: Any, *, least: int = 1, most: int | None = None
) -> None:
    """Raises unless a number of sampling steps is a whole one in its range."""
    if is_whole(value, least=least) and (most is None or value <= most):
        return
    of_chain = "" if most is None else f" and at most {most}, the number of steps"
    raise ValueError(
        f"`{name}` must be a whole number of at least {least}{of_chain}; got {value!r}."
    )


class AbstractGradientEstimator(eqx.Module):
    r"""How the gradient of $\mathbb{E}[r(x_0)]$ is estimated.

    An estimator is a differentiable objective: the gradient of its value with respect
    to the adapter *is* the estimate. What must not be differentiated is stopped inside.
    """

    @abc.abstractmethod
    def check(self, num_inference_steps: int) -> None:
        """Raises a `ValueError` if a chain of this length is too short."""

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget | None:
        """What one gradient costs, on average over what the estimator draws.

        `None`, which is what this method gives unless an estimator has its own, is for
        not known.

        **Arguments:**

        - `num_inference_steps`, `batch_size`: Of the chain.
        - `guided`: Whether every prediction takes two evaluations of the UNet.
        """
        del num_inference_steps, batch_size, guided
        return None

    def needs_reward_gradient(self) -> bool:
        """Whether the reward must be differentiable in the images.

        It must, unless an estimator says otherwise.
        """
        return True

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
