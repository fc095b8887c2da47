import dataclasses
import math

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import stop_gradient
from .._custom_types import Latents, Real
from ..diffusion import AbstractDenoiser, DDIM, DDIMSteps
from ._alignprop import AlignProp
from ._budget import Budget
from ._draft import DRaFT, DRaFTLV
from ._drtune import DRTune
from ._estimator import AbstractGradientEstimator, AbstractPenalty, Episode
from ._refl import ReFL
from ._single_reward import SingleRewardLV


_PENALIZABLE = (DRaFT, DRaFTLV, SingleRewardLV, AlignProp, ReFL, DRTune)


class Penalized(AbstractGradientEstimator):
    r"""Another estimator, less a penalty for leaving the base model: DRaFT+.

    $$J_\text{method} - \lambda\, \mathrm{mean}\,
      \bigl(\hat\epsilon_\theta(x_t, c) - \hat\epsilon_0(x_t, c)\bigr)^2$$

    The mean is over images, numbers of the latents, and the steps that `method`
    differentiates: the last $K$ of `DRaFT(K)`. The noise is that after guidance, and
    $\hat\epsilon_0$ is the same model with its adapter off, a constant: no weights are
    copied, and every differentiated step costs one prediction more. (The authors' code
    calls this a KL divergence; the factor that would make it one is left out there,
    too.)

    Learned inputs of the sampler are not part of the difference: both models use them.

    ??? cite

        DRaFT+ of [NeMo-Aligner](https://github.com/NVIDIA/NeMo-Aligner). Whether the
        penalty's gradient should pass through the latents is left open here; by default
        it does, as autograd would have it.
    """

    method: AbstractGradientEstimator
    weight: Real = eqx.field(static=True, default=1.0)
    stop_latents: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        r"""**Arguments:**

        - `method`: An estimator that backpropagates through sampling.
        - `weight`: $\lambda$, at least 0.
        - `stop_latents`: Whether the penalty at a step is a function of the model
            alone, the latents it is computed at a constant. Costs a second prediction
            a step where `method` differentiates the latents, which is with more than
            one step of `DRaFT` or `AlignProp`.
        """
        if not isinstance(self.method, _PENALIZABLE):
            names = ", ".join(cls.__name__ for cls in _PENALIZABLE)
            raise ValueError(
                f"`method` must be one of {names}; got {type(self.method).__name__}."
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(
                f"`weight` must be finite and at least 0; got {self.weight}."
            )

    def check(self, num_inference_steps: int) -> None:
        self.method.check(num_inference_steps)

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget | None:
        cost = self.method.budget(num_inference_steps, batch_size, guided=guided)
        if cost is None or self.weight == 0:
            return cost
        extra = cost.unet_backwards
        if self._predicts_again():
            again = Budget(unet_forwards=extra, unet_backwards=extra)
            return cost + again + Budget(unet_forwards=extra)
        return cost + Budget(unet_forwards=extra)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        if self.weight == 0:
            return self.method(episode, key)
        if episode.base is None:
            raise ValueError("`episode` must have a `base` for a penalty; got None.")
        penalty = NoisePenalty(
            stop_gradient(episode.base()),
            episode.steps,
            episode.sampler,
            self.weight,
            self._predicts_again(),
        )
        return self.method(dataclasses.replace(episode, penalty=penalty), key)

    def _predicts_again(self) -> bool:
        # Of a single step the latents are a constant anyway.
        method = self.method
        one = isinstance(method, DRaFT) and method.truncation_steps == 1
        several = isinstance(method, DRaFT | AlignProp)
        return self.stop_latents and several and not one


class NoisePenalty(AbstractPenalty):
    """The mean squared difference of a predicted noise to the base model's."""

    base: AbstractDenoiser
    steps: DDIMSteps
    sampler: DDIM
    weight: Real = eqx.field(static=True)
    stop_latents: bool = eqx.field(static=True)

    def of_prediction(
        self, latents: Latents, prediction: Latents, index: Int[Array, ""]
    ) -> Float[Array, " batch"]:
        step = self.steps[index]
        base = self.base(lax.stop_gradient(latents), index)
        _, noise = self.sampler.predict(latents, prediction, step)
        _, base_noise = self.sampler.predict(lax.stop_gradient(latents), base, step)
        difference = noise - lax.stop_gradient(base_noise)
        return self.weight * jnp.mean(difference**2, axis=(1, 2, 3))

    def __call__(
        self,
        denoiser: AbstractDenoiser,
        latents: Latents,
        prediction: Latents,
        step: DDIMSteps,
        index: Int[Array, ""],
    ) -> Float[Array, " batch"]:
        del step  # The index says it.
        if self.stop_latents:
            latents = lax.stop_gradient(latents)
            prediction = denoiser(latents, index)
        return self.of_prediction(latents, prediction, index)
