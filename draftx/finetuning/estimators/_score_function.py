import dataclasses

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._autodiff import eager_gradient
from ..._checks import check_is, plain
from ..._custom_types import Real
from ...diffusion import (
    AbstractSampler,
    AbstractSteps,
    Chain,
    check_density_reduction,
    check_noise,
    DensityReduction,
    log_prob,
    random_steps,
    record,
    State,
)
from ...episodes import Budget, count, Episode
from ...rewards import Scores
from ._interface import AbstractGradientEstimator, TrainedSteps


class ScoreFunction(AbstractGradientEstimator):
    r"""Estimates the gradient of the expected reward without that of the reward.

    $$\nabla_\theta\, \mathbb E[r(x_0)]
      = \mathbb E\Bigl[(r(x_0) - b) \sum_t \nabla_\theta
        \log p_\theta(x_{t-1} \mid x_t)\Bigr]$$

    for a chain with noise, its baseline $b$ the mean reward of the other images of the
    batch (0 for a batch of one): unbiased, for any reward, and of high variance. One
    draw, one gradient: `draftx.DDPO` makes more out of a draw.

    **Arguments:**

    - `eta`: The noise of the chain, above 0 and at most 1, for a sampler that takes it;
        another's steps must add noise.
    - `reduction`: `"sum"` is the gradient itself; `"mean"` divides it by the number of
        dimensions of the latents.
    - `normalize`: Whether to divide by the batch's standard deviation of rewards; not
        for a batch of one.

    ??? cite

        [DDPO](https://arxiv.org/abs/2305.13301), equation 3 (DDPO-SF).
    """

    eta: Real = eqx.field(static=True, converter=plain, default=1.0)
    reduction: DensityReduction = eqx.field(static=True, default="sum")
    normalize: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_noise(self.eta)
        check_density_reduction(self.reduction)
        check_is("normalize", self.normalize, bool, "True")

    def check(self, num_inference_steps: int) -> None:
        del num_inference_steps  # Whether a step has noise is for the sampler to say.

    def check_batch(self, batch_size: int) -> None:
        if self.normalize and batch_size < 2:
            raise ValueError(
                "`normalize` must be False for a batch of one image, whose rewards do "
                f"not deviate; got {self.normalize} and a batch of {batch_size}."
            )

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        # Not the last, where the chain ends without noise.
        return TrainedSteps(range(num_inference_steps - 1), range(num_inference_steps))

    def steps_at_once(self, num_inference_steps: int) -> int:
        del num_inference_steps
        return 1

    def idle_steps(
        self, sampler: AbstractSampler, steps: AbstractSteps
    ) -> frozenset[int]:
        del sampler, steps  # Where there is no noise there is no term either.
        return frozenset()

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        del num_inference_steps
        return False

    def needs_reward_gradient(self) -> bool:
        return False

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        # Where the last step adds no noise, it is not evaluated again: one fewer.
        steps = num_inference_steps
        return count(batch_size, guided=guided, forwards=2 * steps, backwards=steps)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores]:
        sampler, total = episode.chain.sampler, len(episode.chain)
        eta = self.eta if sampler.takes_eta else 0.0
        indices = random_steps(sampler, total, eta)
        steps = sampler.steps(total, eta=eta)
        chain = dataclasses.replace(episode.chain, steps=steps, key=key)
        recorded = record(chain, episode.noise)
        judged = episode.scores_alone(recorded.end.latents)
        rewards = judged.total
        advantages = rewards - _mean_of_others(rewards)
        if self.normalize:
            advantages = advantages / (jnp.std(rewards) + 1e-6)

        visited = recorded.latents()

        def term(chain: Chain, index: Int[Array, ""], states: State, visited: Array):
            state = jax.tree.map(lambda x: x[index], states)
            prediction = chain.predict(state, index)
            density = log_prob(
                sampler,
                state.latents,
                prediction.output,
                steps[index],
                visited[index + 1],
                memory=state.memory,
                reduction=self.reduction,
            )
            scores = len(indices) * advantages * density
            return episode.objective(scores, prediction.charge), None

        terms = lax.map(
            lambda index: eager_gradient(term, chain, index, recorded.states, visited)[
                0
            ],
            jnp.asarray(indices),
        )
        surrogate = jnp.mean(terms)
        # Its value means nothing; the mean reward, with its gradient, does.
        value = jnp.mean(rewards) + (surrogate - lax.stop_gradient(surrogate))
        return value, judged


def _mean_of_others(rewards: Float[Array, " batch"]) -> Float[Array, " batch"]:
    n = rewards.shape[0]
    if n == 1:
        return jnp.zeros_like(rewards)
    return (jnp.sum(rewards) - rewards) / (n - 1)
