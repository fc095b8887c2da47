"""Denoising diffusion policy optimization: sampling as a decision at every step.

[DDPO](https://arxiv.org/abs/2305.13301).
"""

from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._autodiff import eager_gradient
from ..._checks import check_is, plain, positive
from ..._custom_types import Real
from ...diffusion import (
    AbstractSampler,
    Chain,
    check_density_reduction,
    check_noise,
    DensityReduction,
    log_ratio,
    random_steps,
)
from ...episodes import Budget, count
from ...pipeline import Pipeline
from ._advantages import AbstractAdvantageMethod, check_normalization, Normalization
from ._round_method import Rollout
from ._updates import Updates


class DDPO(AbstractAdvantageMethod):
    r"""Follows importance-sampled policy gradients over the steps of a random chain.

    With $\rho_t = p_\theta(x_{t-1} \mid x_t) / p_{\theta_\text{old}}(x_{t-1} \mid x_t)$
    and the advantage $A$ of an image, an update ascends the mean over images and steps
    of

    $$\min\bigl(\rho_t A,\ \mathrm{clip}(\rho_t, 1 - c, 1 + c)\, A\bigr).$$

    Asks nothing of the reward but numbers. For `draftx.finetune_in_rounds`.

    Until the first update of a round $\rho_t$ is 1, exactly. After it,
    $p_{\theta_\text{old}}$ is that of the predictions that drew the images; another
    program rounds otherwise, which for a base in bfloat16 is more than `clip_range`:
    1.4e-2 with the embedded model, half of what an update with a rate of 3e-4 moves.

    **Arguments:**

    - `clip_range`: $c$.
    - `max_advantage`: Advantages are clipped to this size.
    - `normalization`, `buffer_size`, `min_count`: Advantages are rewards minus
        their mean over their standard deviation: of the latest `buffer_size` of
        the same prompt, once there are `min_count`, otherwise of the batch; or
        always of the `"batch"`.
    - `reduction`: `"mean"` is what the authors' code has in place of the
        log-density, which divides it by the number of dimensions, and what the
        default of `clip_range` is for. `"sum"` is the log-density.
    - `eta`: The noise of the chain, above 0 and at most 1.
    - `updates`: How a round is divided into updates.

    ??? cite

        [DDPO](https://arxiv.org/abs/2305.13301), equation 4 (DDPO-IS); the clipping is
        that of [PPO](https://arxiv.org/abs/1707.06347), equation 7.
    """

    clip_range: Real = eqx.field(static=True, converter=plain, default=1e-4)
    max_advantage: Real = eqx.field(static=True, converter=plain, default=5.0)
    normalization: Normalization = eqx.field(static=True, default="per_prompt")
    buffer_size: int = eqx.field(static=True, converter=plain, default=16)
    min_count: int = eqx.field(static=True, converter=plain, default=16)
    reduction: DensityReduction = eqx.field(static=True, default="mean")
    eta: Real = eqx.field(static=True, converter=plain, default=1.0)
    updates: Updates = Updates()

    def __check_init__(self):
        check_is("updates", self.updates, Updates, "draftx.Updates(minibatch_size=2)")
        positive("clip_range", self.clip_range)
        positive("max_advantage", self.max_advantage)
        check_normalization(self.normalization, self.buffer_size, self.min_count)
        check_density_reduction(self.reduction)
        check_noise(self.eta)

    def trained_steps(
        self, sampler: AbstractSampler, num_inference_steps: int
    ) -> Int[np.ndarray, " trained"]:
        eta = self.eta if sampler.takes_eta else 0.0
        return random_steps(sampler, num_inference_steps, eta)

    def weigh_advantages(
        self, advantages: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        return np.clip(advantages, -self.max_advantage, self.max_advantage)

    def objective(
        self,
        pipeline: Pipeline,
        learned: Any,
        constant: Any,
        rollout: Rollout,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        del learned, constant, key
        chain, record = rollout.chain(pipeline), rollout.record
        visited = record.latents()

        def term(chain: Chain, index: Int[Array, ""], visited: Array):
            state = jax.tree.map(lambda x: x[index], record.states)
            output = chain.predict(state, index).output
            # A program of other shapes rounds otherwise: in bfloat16 by more than any
            # `clip_range`. The model that drew the images has left itself by nothing.
            recorded = record.predictions.output[index]
            old = jnp.where(rollout.is_current, output, recorded)
            difference = log_ratio(
                chain.sampler,
                state.latents,
                (output, old),
                chain.steps[index],
                visited[index + 1],
                memory=state.memory,
                reduction=self.reduction,
            )
            ratio = jnp.exp(difference)
            clipped = jnp.clip(ratio, 1 - self.clip_range, 1 + self.clip_range)
            advantages = rollout.weights
            ascended = jnp.minimum(ratio * advantages, clipped * advantages)
            figures = {
                "clipped": jnp.mean((ratio != clipped).astype(jnp.float32)),
                "divergence": jnp.mean(difference**2) / 2,
            }
            return jnp.mean(ascended), figures

        terms, figures = lax.map(
            lambda index: eager_gradient(term, chain, index, visited), rollout.times
        )
        return jnp.mean(terms), jax.tree.map(jnp.mean, figures)

    def budget(
        self,
        num_inference_steps: int,
        batch_size: int,
        *,
        num_trained: int,
        guided: bool = True,
    ) -> Budget:
        forwards = num_inference_steps + num_trained
        return count(
            batch_size, guided=guided, forwards=forwards, backwards=num_trained
        )
