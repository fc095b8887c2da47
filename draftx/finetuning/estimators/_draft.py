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

from ..._autodiff import eager_gradient
from ..._checks import check_whole, is_whole, plain
from ..._custom_types import Latents
from ...diffusion import Chain, State
from ...episodes import Budget, count, Episode
from ...rewards import Scores
from ._interface import AbstractGradientEstimator, TrainedSteps


class DRaFT(AbstractGradientEstimator):
    r"""Differentiates the mean reward, through all or the last $K$ sampling steps.

    $$\nabla_\theta \frac{1}{B} \sum_b r(x_0^{(b)}), \qquad
      x_0 = \mathrm{sample}(\mathrm{sg}(\theta), T - K) \text{ then } K \text{ steps}$$

    Exact for $K = T$; biased for smaller $K$, which costs less and in the paper learns
    faster.

    **Arguments:**

    - `truncation_steps`: $K$, at least 1; `None` is all steps.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), section 4 and Algorithm 1.
    """

    truncation_steps: int | None = eqx.field(static=True, converter=plain, default=None)

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

    def _k(self, num_inference_steps: int) -> int:
        k = self.truncation_steps
        return num_inference_steps if k is None else k

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        first = num_inference_steps - self._k(num_inference_steps)
        return TrainedSteps(range(first, num_inference_steps))

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        return self._k(num_inference_steps) > 1

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        steps = num_inference_steps
        return count(
            batch_size, guided=guided, forwards=steps, backwards=self._k(steps)
        )

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores]:
        del key
        return episode.score(episode.run(self.truncation_steps))


class DRaFTLV(AbstractGradientEstimator):
    r"""Lowers the variance of DRaFT-1: the last step is drawn several times.

    The clean latents $x_0$ are noised again to the last step,
    $x_1 = \sqrt{\bar\alpha_1}\,\mathrm{sg}(x_0) + \sqrt{1 - \bar\alpha_1}\,\epsilon_i$
    for $i = 1 \ldots n$, each denoised in one step, decoded and rewarded. The latents
    are noised, not the images: nothing is encoded again.

    **Arguments:**

    - `num_samples`: $n$, the additional draws.
    - `include_original`: Whether the gradient of the chain's own last step counts as
        well, as in Algorithm 1.
    - `reduction`: The paper sums the gradients (`"sum"`); their `"mean"` is the same
        direction at the scale of the other estimators.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), section 4.2 and Algorithm 1.
    """

    num_samples: int = eqx.field(static=True, converter=plain, default=2)
    include_original: bool = eqx.field(static=True, default=True)
    reduction: Literal["mean", "sum"] = eqx.field(static=True, default="mean")

    def __check_init__(self):
        check_draws(self.num_samples, self.include_original, self.reduction)

    def check(self, num_inference_steps: int) -> None:
        del num_inference_steps  # One differentiated step is always there.

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        return TrainedSteps([num_inference_steps - 1])

    def passes_through_steps(self, num_inference_steps: int) -> bool:
        del num_inference_steps
        return False

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
    ) -> tuple[Float[Array, ""], Scores]:
        state = episode.run(1 if self.include_original else 0)
        total, scores = episode.score(state)
        if not self.include_original:
            total = jnp.zeros(())

        def redraw(episode: Episode, latents: Latents, key: PRNGKeyArray):
            state = redraw_last_step(episode.chain, latents, key)
            return episode.score(state)[0], None

        # Draw after draw, each with its gradient: the memory of one.
        latents = lax.stop_gradient(state.latents)
        totals = lax.map(
            lambda key: eager_gradient(redraw, episode, latents, key)[0],
            jr.split(key, self.num_samples),
        )
        total = total + jnp.sum(totals)
        if self.reduction == "mean":
            total = total / (self.num_samples + self.include_original)
        return total, scores


def check_draws(num_samples: int, include_original: bool, reduction: str) -> None:
    """Raises unless the last step can be drawn like this."""
    check_whole("num_samples", num_samples, least=0 if include_original else 1)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum'; got {reduction!r}.")


def redraw_last_step(chain: Chain, latents: Latents, key: PRNGKeyArray) -> State:
    """Noises clean latents anew to the last step, and denoises them."""
    last = jnp.asarray(len(chain) - 1)
    noise = jr.normal(key, latents.shape, latents.dtype)
    if chain.key is not None:
        # Where the chain has noise, its last step has: another for each draw.
        chain = eqx.tree_at(lambda c: c.key, chain, jr.fold_in(key, 1))
    return chain.step(chain.noised(latents, noise, last), last)[0]
