import statistics
from typing import get_args, Literal, TypeAlias

import equinox as eqx
import equinox.internal as eqxi
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import finite, plain, positive
from ..._custom_types import Real
from ...episodes import Budget, count, Episode
from ...rewards import Scores
from ._interface import AbstractGradientEstimator, check_steps, TrainedSteps


Distribution: TypeAlias = Literal["uniform", "gaussian"]


class AlignProp(AbstractGradientEstimator):
    r"""Differentiates the last $K$ steps, with $K$ drawn anew for every batch.

    `distribution="uniform"` draws $K$ from `min_steps` to `max_steps`, and `"gaussian"`
    rounds $\mathcal N(\mu, \sigma^2)$ to a whole number in that range. The published
    settings for 50 steps are $K \sim \mathrm{Unif}\{1 \ldots 50\}$ and, counted from
    the end of the chain, $\mathcal N(8, 5^2)$.

    $K$ is one number for the whole chain. Some trainers draw inside the loop over steps
    instead, so that every step is cut off or not on its own; the gradient of a step
    then passes only if no later one was cut, and long chains are hardly ever trained.

    One program serves every $K$, in time proportional to it.

    **Arguments:**

    - `distribution`: `"uniform"` or `"gaussian"`.
    - `min_steps`, `max_steps`: The range of $K$; `None` is all steps of the chain.
    - `mean`, `std`: $\mu$ and $\sigma$ of `"gaussian"`.

    ??? cite

        [AlignProp](https://arxiv.org/abs/2310.03739), section 4.
    """

    distribution: Distribution = eqx.field(static=True, default="uniform")
    min_steps: int = eqx.field(static=True, converter=plain, default=1)
    max_steps: int | None = eqx.field(static=True, converter=plain, default=None)
    mean: Real = eqx.field(static=True, converter=plain, default=8)
    std: Real = eqx.field(static=True, converter=plain, default=5)

    def __check_init__(self):
        if self.distribution not in get_args(Distribution):
            raise ValueError(
                "`distribution` must be 'uniform' or 'gaussian'; got "
                f"{self.distribution!r}."
            )
        check_steps("min_steps", self.min_steps)
        if self.max_steps is not None:
            check_steps("max_steps", self.max_steps, least=self.min_steps)
        finite("mean", self.mean)
        positive("std", self.std)

    def check(self, num_inference_steps: int) -> None:
        most = self.min_steps if self.max_steps is None else self.max_steps
        name = "min_steps" if self.max_steps is None else "max_steps"
        check_steps(name, most, most=num_inference_steps)

    def _most(self, total: int) -> int:
        return total if self.max_steps is None else self.max_steps

    def trained_steps(self, num_inference_steps: int) -> TrainedSteps:
        total = num_inference_steps
        return TrainedSteps(
            range(total - self.min_steps, total),
            range(total - self._most(total), total),
        )

    def steps_at_once(self, num_inference_steps: int) -> int:
        del num_inference_steps
        return 0  # Each of them is computed again, whatever the tier.

    def mean_steps(self, total: int) -> float:
        """Computes the expectation of $K$, for a chain of `total` steps."""
        least, most = self.min_steps, self._most(total)
        if self.distribution == "uniform":
            return (least + most) / 2
        # Of a whole number, the least plus the chances of being beyond each.
        normal = statistics.NormalDist(self.mean, self.std)
        return least + sum(1 - normal.cdf(k + 0.5) for k in range(least, most))

    def budget(
        self, num_inference_steps: int, batch_size: int, *, guided: bool = True
    ) -> Budget:
        steps = num_inference_steps
        k = self.mean_steps(steps)
        return count(batch_size, guided=guided, forwards=steps, backwards=k)

    def draw(self, total: int, key: PRNGKeyArray) -> Array:
        """Draws $K$ from a `key`, for a chain of `total` steps."""
        most = self._most(total)
        if self.distribution == "uniform":
            return jr.randint(key, (), self.min_steps, most + 1)
        drawn = jnp.round(self.mean + self.std * jr.normal(key))
        return jnp.clip(drawn, self.min_steps, most).astype(jnp.int32)

    def __call__(
        self, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Scores]:
        chain, total = episode.chain, len(episode.chain)
        first = total - self.draw(total, key)
        # A start that is drawn makes as many steps as it says, so a scan will not do.
        # With a checkpoint for each step, each is computed again once.
        _, state = eqxi.while_loop(
            lambda carry: carry[0] < total,
            lambda carry: (carry[0] + 1, chain.step(carry[1], carry[0])[0]),
            (first, episode.run_frozen(first)),
            max_steps=total,
            kind="checkpointed",
            checkpoints=total,
        )
        return episode.score(state)
