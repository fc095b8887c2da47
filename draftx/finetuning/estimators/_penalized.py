"""DRaFT+: any estimator, less a penalty for leaving the base model."""

import abc

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._autodiff import stop_gradient
from ..._checks import check_is, not_negative, plain
from ..._custom_types import Latents, Real
from ...diffusion import (
    AbstractDenoiser,
    AbstractSampler,
    AbstractStepCost,
    AbstractSteps,
)
from ...episodes import Budget, Episode
from ...rewards import Scores
from ._interface import AbstractGradientEstimator, TrainedSteps


class AbstractPenalty(eqx.Module):
    """Charges the predictions of a model for differing from those of its base."""

    @abc.abstractmethod
    def __call__(
        self,
        sampler: AbstractSampler,
        step: AbstractSteps,
        latents: Latents,
        output: Latents,
        base_output: Latents,
    ) -> Float[Array, " batch"]:
        """Charges one prediction, one number an image.

        What it is weighed by is not for it to say.

        **Arguments:**

        - `sampler`, `step`: Of the chain; `sampler.predict` gives clean latents and
            noise.
        - `latents`: What both models were asked about.
        - `output`, `base_output`: What they said, the latter a constant.
        """


class NoiseDifference(AbstractPenalty):
    r"""Charges the mean square of $\hat\epsilon_\theta - \hat\epsilon_0$."""

    def __call__(
        self,
        sampler: AbstractSampler,
        step: AbstractSteps,
        latents: Latents,
        output: Latents,
        base_output: Latents,
    ) -> Float[Array, " batch"]:
        _, noise = sampler.predict(latents, output, step)
        _, base_noise = sampler.predict(lax.stop_gradient(latents), base_output, step)
        difference = noise - lax.stop_gradient(base_noise)
        return jnp.mean(difference**2, axis=(1, 2, 3))


class Penalized(AbstractGradientEstimator):
    r"""Charges any estimator for leaving the base model: DRaFT+.

    $$J_\text{method} - \lambda\, \mathrm{mean}\,
      \bigl(\hat\epsilon_\theta(x_t, c) - \hat\epsilon_0(x_t, c)\bigr)^2$$

    The mean is over images, numbers of the latents, and the steps that `method`
    differentiates: the last $K$ of `DRaFT(K)`. The noise is that after guidance, and
    $\hat\epsilon_0$ is the same model with its adapter off, a constant: no weights are
    copied, and every differentiated step costs one prediction more. (The authors' code
    calls this a KL divergence; the factor that would make it one is left out there,
    too.)

    Learned inputs of the sampler are not part of the difference: both models use them.

    **Arguments:**

    - `method`: Any estimator whose steps are those of its episode's chain.
    - `weight`: $\lambda$, at least 0.
    - `stop_latents`: Whether the penalty at a step is a function of the model alone,
        the latents it is computed at a constant. Costs a second prediction a step
        where `method` differentiates the latents, which is with more than one step of
        `DRaFT` or `AlignProp`.
    - `penalty`: What is charged instead of the squared difference of the noise.

    ??? cite

        DRaFT+ of [NeMo-Aligner](https://github.com/NVIDIA/NeMo-Aligner). Whether the
        penalty's gradient should pass through the latents is left open here; by default
        it does, as autograd would have it.
    """

    method: AbstractGradientEstimator
    weight: Real = eqx.field(static=True, converter=plain, default=1.0)
    stop_latents: bool = eqx.field(static=True, default=False)
    penalty: AbstractPenalty = NoiseDifference()

    def __check_init__(self):
        example = "draftx.DRaFT(1)"
        check_is("method", self.method, AbstractGradientEstimator, example)
        not_negative("weight", self.weight)
        check_is("stop_latents", self.stop_latents, bool, "True")

    def check(self, num_inference_steps: int) -> None:
        self.method.check(num_inference_steps)

    def check_batch(self, batch_size: int) -> None:
        self.method.check_batch(batch_size)

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        return self.method.trained_steps(num_inference_steps)

    def steps_at_once(self, num_inference_steps: int) -> int:
        return self.method.steps_at_once(num_inference_steps)

    def idle_steps(
        self, sampler: AbstractSampler, steps: AbstractSteps
    ) -> frozenset[int]:
        return self.method.idle_steps(sampler, steps)

    def draws_only(self, steps: frozenset[int], num_inference_steps: int) -> bool:
        return self.method.draws_only(steps, num_inference_steps)

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        return self.method.passes_through_steps(num_inference_steps)

    def needs_reward_gradient(self) -> bool:
        return self.method.needs_reward_gradient()

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget | None:
        cost = self.method.budget(num_inference_steps, batch_size, guided=guided)
        if cost is None or self.weight == 0:
            return cost
        extra = cost.unet_backwards
        cost = cost + Budget(unet_forwards=extra)
        if self._predicts_again(num_inference_steps):
            cost = cost + Budget(unet_forwards=extra, unet_backwards=extra)
        return cost

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores | Float[Array, " batch"]]:
        if self.weight == 0:
            return self.method(episode, key)
        if episode.base is None:
            raise ValueError("`episode` must have a `base` for a penalty; got None.")
        chain = episode.chain
        cost = _Weighed(
            penalty=self.penalty,
            base=stop_gradient(episode.base()),
            sampler=chain.sampler,
            steps=chain.steps,
            already=chain.cost,
            weight=self.weight,
            predicts_again=self._predicts_again(len(chain)),
        )
        episode = eqx.tree_at(
            lambda e: e.chain.cost, episode, cost, is_leaf=lambda x: x is chain.cost
        )
        return self.method(episode, key)

    def _predicts_again(self, num_inference_steps: int) -> bool:
        # Where no gradient reaches the latents they are constants anyway.
        return self.stop_latents and self.passes_through_steps(num_inference_steps)


class _Weighed(AbstractStepCost):
    """A penalty, its weight, and what the chain is charged already."""

    penalty: AbstractPenalty
    base: AbstractDenoiser
    sampler: AbstractSampler
    steps: AbstractSteps
    already: AbstractStepCost | None
    weight: Real = eqx.field(static=True)
    predicts_again: bool = eqx.field(static=True)

    def __call__(
        self,
        denoiser: AbstractDenoiser,
        latents: Latents,
        output: Latents,
        index: Int[Array, ""],
    ) -> Float[Array, " batch"]:
        others = 0.0
        if self.already is not None:
            others = self.already(denoiser, latents, output, index)
        if self.predicts_again:
            latents = lax.stop_gradient(latents)
            output = denoiser(latents, index)
        base = self.base(lax.stop_gradient(latents), index)
        step = self.steps[index]
        charged = self.penalty(
            self.sampler, step, latents, output, lax.stop_gradient(base)
        )
        return others + self.weight * charged
