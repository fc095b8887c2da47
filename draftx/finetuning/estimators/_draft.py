"""Direct reward fine-tuning: backpropagation of the reward through sampling.

[DRaFT](https://arxiv.org/abs/2309.17400): section 4 for DRaFT and DRaFT-K, section 4.2
and Algorithm 1 for DRaFT-LV.
"""

import functools as ft
from typing import Literal

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._autodiff import eager_gradient
from ..._checks import check_is, check_whole, is_whole, plain
from ..._custom_types import Latents
from ...diffusion import Chain, State
from ...episodes import Budget, count, Episode
from ...layers import checkpoint_if
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
        chain, last = episode.chain, len(episode.chain) - 1
        if self.include_original:
            before, scores = episode.run_frozen(last), None
            clean = jnp.zeros_like(before.latents)
        else:
            before = episode.run_frozen(last + 1)
            clean, scores = before.latents, episode.scores_alone(before.latents)

        def step(episode: Episode, state: State, key: PRNGKeyArray | None):
            chain = episode.chain
            if key is not None:
                chain = eqx.tree_at(lambda c: c.key, chain, key)
            # Nothing of the step is there while the images are decoded and rewarded.
            take = checkpoint_if(episode.memory.remat.steps, chain.step)
            state = take(state, jnp.asarray(last))[0]
            total, scores = episode.score(state)
            return total, (state.latents, scores)

        def body(clean: Latents, draw: tuple[Array, PRNGKeyArray]):
            is_own, key = draw
            own_or = lambda own, drawn: jax.tree.map(
                ft.partial(jnp.where, is_own), own, drawn
            )
            state = own_or(before, renoise(chain, clean, key))
            step_key = None
            if chain.key is not None:
                # Where the chain has noise, its last step has: another for each draw.
                step_key = own_or(chain.key, jr.fold_in(key, 1))
            total, (latents, scores) = eager_gradient(step, episode, state, step_key)
            return own_or(latents, clean), (total, scores)

        # The chain's own last step, and draw after draw, each with its gradient: the
        # memory of one, and one program for all.
        num_own = int(self.include_original)
        number = jnp.arange(num_own + self.num_samples)
        keys = jr.split(key, max(self.num_samples, 1))
        keys = keys[jnp.maximum(number - num_own, 0)]
        _, (totals, of_each) = lax.scan(body, clean, (number < num_own, keys))
        if scores is None:
            scores = jax.tree.map(lambda x: x[0], of_each)
        total = jnp.sum(totals)
        if self.reduction == "mean":
            total = total / (self.num_samples + self.include_original)
        return total, scores


def check_draws(num_samples: int, include_original: bool, reduction: str) -> None:
    """Raises unless the last step can be drawn like this."""
    check_is("include_original", include_original, bool, "True")
    check_whole("num_samples", num_samples, least=0 if include_original else 1)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"`reduction` must be 'mean' or 'sum'; got {reduction!r}.")


def renoise(chain: Chain, latents: Latents, key: PRNGKeyArray) -> State:
    """Noises clean latents anew to the last step of a chain."""
    noise = jr.normal(key, latents.shape, latents.dtype)
    return chain.noised(latents, noise, jnp.asarray(len(chain) - 1))


def redraw_last_step(chain: Chain, latents: Latents, key: PRNGKeyArray) -> State:
    """Noises clean latents anew to the last step, and denoises them."""
    state = renoise(chain, latents, key)
    if chain.key is not None:
        # Where the chain has noise, its last step has: another for each draw.
        chain = eqx.tree_at(lambda c: c.key, chain, jr.fold_in(key, 1))
    return chain.step(state, jnp.asarray(len(chain) - 1))[0]
