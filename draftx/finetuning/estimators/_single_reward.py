from typing import Literal

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._autodiff import eager_gradient
from ..._checks import plain
from ..._custom_types import Latents
from ...diffusion import State
from ...episodes import Budget, count, Episode
from ...rewards import Scores
from ._draft import check_draws, redraw_last_step
from ._interface import AbstractGradientEstimator, TrainedSteps


class SingleRewardLV(AbstractGradientEstimator):
    r"""Evaluates the reward once for all the draws of DRaFT-LV.

    The gradient of the reward is taken once, at the clean latents of the chain,
    $g = \partial r / \partial x_0$, and stands for that at the latents
    $\hat x_0^{(i)}$ that each of the $n$ draws of the last step is denoised to:

    $$\nabla_\theta\, \Bigl\langle \mathrm{sg}(g),\
      x_0 + \sum_{i=1}^n \hat x_0^{(i)} \Bigr\rangle$$

    This saves decoding and rewarding the draws, and assumes that the reward is close to
    linear between them; the paper found it less stable.

    **Arguments:**

    - `num_samples`, `include_original`, `reduction`: As for `draftx.DRaFTLV`.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix C.1.
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
        )

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores]:
        original = episode.run(1 if self.include_original else 0)
        latents = lax.stop_gradient(original.latents)

        def mean_reward(latents: Latents):
            scores = episode.scores(latents)
            return jnp.mean(scores.total), scores

        slope, scores = jax.grad(mean_reward, has_aux=True)(latents)
        slope, scores = lax.stop_gradient((slope, scores))

        def along(episode: Episode, state: State) -> Float[Array, ""]:
            each = jnp.sum(slope * state.latents, axis=(1, 2, 3))
            return episode.objective(len(latents) * each, state.charge)

        def redraw(episode: Episode, key: PRNGKeyArray):
            return along(episode, redraw_last_step(episode.chain, latents, key)), None

        # The reward is done with: no need to look for its gradient in the draws.
        totals = lax.map(
            lambda key: eager_gradient(redraw, episode, key)[0],
            jr.split(key, self.num_samples),
        )
        surrogate = jnp.sum(totals)
        if self.include_original:
            surrogate = surrogate + along(episode, original)
        if self.reduction == "mean":
            surrogate = surrogate / (self.num_samples + self.include_original)
        # Its value means nothing; the mean reward, with its gradient, does.
        value = jnp.mean(scores.total) + (surrogate - lax.stop_gradient(surrogate))
        return value, scores
