import dataclasses

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import eager_gradient
from .._custom_types import Latents, Real
from ..diffusion import AbstractDenoiser
from ._budget import Budget, count
from ._estimator import AbstractGradientEstimator, Episode
from ._transitions import log_prob, random_steps, record_chain, Reduction


class ScoreFunction(AbstractGradientEstimator):
    r"""The gradient of the expected reward without that of the reward.

    $$\nabla_\theta\, \mathbb E[r(x_0)]
      = \mathbb E\Bigl[(r(x_0) - b) \sum_t \nabla_\theta
        \log p_\theta(x_{t-1} \mid x_t)\Bigr]$$

    for a chain with noise, its baseline $b$ the mean reward of the other images of the
    batch (0 for a batch of one): unbiased, for any reward, and of high variance. One
    draw, one gradient: `draftx.DDPO` makes more out of a draw.

    ??? cite

        [DDPO](https://arxiv.org/abs/2305.13301), equation 3 (DDPO-SF).
    """

    eta: Real = eqx.field(static=True, default=1.0)
    reduction: Reduction = eqx.field(static=True, default="sum")
    normalize: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        r"""**Arguments:**

        - `eta`: The noise of the chain, above 0 and at most 1.
        - `reduction`: `"sum"` is the gradient itself; `"mean"` divides it by the
            number of dimensions of the latents.
        - `normalize`: Whether to divide by the batch's standard deviation of rewards.
        """
        check_density(self.eta)
        check_reduction(self.reduction)

    def check(self, num_inference_steps: int) -> None:
        del num_inference_steps  # Whether a step has noise is for the sampler to say.

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
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        sampler, total = episode.sampler, len(episode.steps)
        indices = random_steps(sampler, total, self.eta)
        steps = sampler.steps(total, eta=self.eta)
        visited, _ = record_chain(
            sampler, episode.denoiser, steps, episode.latents, key
        )
        rewards = lax.stop_gradient(score_frozen(episode, visited[-1]))
        advantages = rewards - _mean_of_others(rewards)
        if self.normalize:
            advantages = advantages / (jnp.std(rewards) + 1e-6)

        def term(denoiser: AbstractDenoiser, index: Int[Array, ""], visited: Array):
            latents, following = visited[index], visited[index + 1]
            prediction = denoiser(latents, index)
            density = log_prob(
                sampler,
                latents,
                prediction,
                steps[index],
                following,
                reduction=self.reduction,
            )
            return jnp.mean(advantages * density), None

        terms = lax.map(
            lambda index: eager_gradient(term, episode.denoiser, index, visited)[0],
            jnp.asarray(indices),
        )
        surrogate = jnp.sum(terms)
        # Its value means nothing; the mean reward, with its gradient, does.
        value = jnp.mean(rewards) + surrogate - lax.stop_gradient(surrogate)
        return value, rewards


def score_frozen(episode: Episode, latents: Latents) -> Float[Array, " batch"]:
    """`episode.score`, without asking the reward for a gradient."""
    size = episode.images_at_once
    if size is None or size == latents.shape[0]:
        return episode.score(latents)
    whole = dataclasses.replace(episode, images_at_once=None)
    split = lambda x: x.reshape(-1, size, *x.shape[1:])

    def one(group):
        latents, prompts = group
        return dataclasses.replace(whole, prompts=prompts).score(latents)

    groups = jax.tree.map(split, (latents, episode.prompts))
    return lax.map(one, groups).reshape(-1)


def check_density(eta: Real) -> None:
    """Raises unless a chain with this $\\eta$ has a density."""
    if not 0 < eta <= 1:
        raise ValueError(
            f"`eta` must lie in (0, 1]: without noise there is no density; got {eta}."
        )


def check_reduction(reduction: str) -> None:
    """Raises unless `reduction` names a way to reduce a log-density."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum'; got {reduction!r}.")


def _mean_of_others(rewards: Float[Array, " batch"]) -> Float[Array, " batch"]:
    n = rewards.shape[0]
    if n == 1:
        return jnp.zeros_like(rewards)
    return (jnp.sum(rewards) - rewards) / (n - 1)
