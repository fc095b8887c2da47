"""Direct reward fine-tuning: backpropagation of the reward through sampling.

[DRaFT](https://arxiv.org/abs/2309.17400): section 4 for DRaFT and DRaFT-K, section 4.2
and Algorithm 1 for DRaFT-LV.
"""

from typing import Literal

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._autodiff import eager_gradient
from .._checks import check_whole, is_whole
from .._custom_types import Latents
from ._budget import Budget, count
from ._estimator import AbstractGradientEstimator, Episode


class DRaFT(AbstractGradientEstimator):
    r"""The gradient of the mean reward, through all or the last $K$ sampling steps.

    $$\nabla_\theta \frac{1}{B} \sum_b r(x_0^{(b)}), \qquad
      x_0 = \mathrm{sample}(\mathrm{sg}(\theta), T - K) \text{ then } K \text{ steps}$$

    Exact for $K = T$; biased for smaller $K$, which costs less and in the paper learns
    faster.
    """

    truncation_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        k = self.truncation_steps
        if k is not None and not is_whole(k):
            raise ValueError(
                "`truncation_steps` must be None (all steps) or a whole number of at "
                f"least 1; got {k!r}. With 0 nothing would be trained."
            )

    def check(self, num_inference_steps: int) -> None:
        k = self.truncation_steps
        if k is not None and k > num_inference_steps:
            raise ValueError(
                f"`truncation_steps` must lie in [1, {num_inference_steps}], the "
                f"number of sampling steps; got {k}."
            )

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        steps = num_inference_steps
        k = steps if self.truncation_steps is None else self.truncation_steps
        return count(batch_size, guided=guided, forwards=steps, backwards=k)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        del key
        latents, penalty = episode.run_penalized(self.truncation_steps)
        rewards = episode.score(latents)
        return jnp.mean(rewards) - penalty, rewards


class DRaFTLV(AbstractGradientEstimator):
    r"""DRaFT-1 with lower variance: the last step is drawn several times.

    The clean latents $x_0$ are noised again to the last step,
    $x_1 = \sqrt{\bar\alpha_1}\,\mathrm{sg}(x_0) + \sqrt{1 - \bar\alpha_1}\,\epsilon_i$
    for $i = 1 \ldots n$, each denoised in one step, decoded and rewarded. The latents
    are noised, not the images: nothing is encoded again.
    """

    num_samples: int = eqx.field(static=True, default=2)
    include_original: bool = eqx.field(static=True, default=True)
    reduction: Literal["mean", "sum"] = eqx.field(static=True, default="mean")

    def __check_init__(self):
        """**Arguments:**

        - `num_samples`: $n$, the additional draws.
        - `include_original`: Whether the gradient of the chain's own last step counts
            as well, as in Algorithm 1.
        - `reduction`: The paper sums the gradients; their mean is the same direction
            at the scale of the other estimators.
        """
        check_draws(self.num_samples, self.include_original, self.reduction)

    def check(self, num_inference_steps: int) -> None:
        del num_inference_steps  # One differentiated step is always there.

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        n = self.num_samples
        return count(
            batch_size,
            guided=guided,
            forwards=num_inference_steps + n,
            backwards=n + self.include_original,
            queries=n + 1,
        )

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        if self.include_original:
            latents, penalty = episode.run_penalized(1)
            rewards = episode.score(latents)
            total = jnp.mean(rewards) - penalty
        else:
            latents = episode.run(0)
            rewards = episode.score(latents)
            total = jnp.zeros(())

        def redraw(episode: Episode, latents: Latents, key: PRNGKeyArray):
            denoised, penalty = redraw_last_step(episode, latents, key)
            return jnp.mean(episode.score(denoised)) - penalty, None

        # Draw after draw, each with its gradient: the memory of one.
        latents = lax.stop_gradient(latents)
        totals = lax.map(
            lambda key: eager_gradient(redraw, episode, latents, key)[0],
            jr.split(key, self.num_samples),
        )
        total = total + jnp.sum(totals)
        if self.reduction == "mean":
            total = total / (self.num_samples + self.include_original)
        return total, rewards


def check_draws(num_samples: int, include_original: bool, reduction: str) -> None:
    """Raises unless the last step can be drawn like this."""
    check_whole("num_samples", num_samples, least=0 if include_original else 1)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum'; got {reduction!r}.")


def redraw_last_step(
    episode: Episode, latents: Latents, key: PRNGKeyArray
) -> tuple[Latents, Float[Array, ""] | float]:
    """Clean latents noised anew to the last step and denoised; and their penalty."""
    last = jnp.asarray(len(episode.steps) - 1)
    step = episode.steps[last]
    noise = jr.normal(key, latents.shape, latents.dtype)
    noised = episode.sampler.add_noise(latents, noise, step)
    prediction = episode.denoiser(noised, last)
    penalty = episode.penalize(noised, prediction, last)
    if episode.noise_key is not None:
        # Where the chain has noise, its last step has: another for each draw.
        key = jr.fold_in(key, 1)
        return episode.sampler.step(
            noised, prediction, step, jr.normal(key, latents.shape, latents.dtype)
        ), penalty
    return episode.sampler.step(noised, prediction, step), penalty
