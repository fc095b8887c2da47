"""Several noises for one rendering, weighed by what each of them leads to."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_is, check_whole, finite, positive
from .._custom_types import Real, RealLike, WholeLike
from ..rewards import AbstractReward, as_reward, Reward


class AbstractNoiseWeights(eqx.Module):
    """Says how much each of several noises counts, by the rewards they lead to."""

    @abc.abstractmethod
    def __call__(
        self, rewards: Float[Array, "noises batch"]
    ) -> Float[Array, "noises batch"]:
        """Weighs the noises of every image by their rewards.

        **Arguments:**

        - `rewards`: Larger is better.
        """

    def check(self, num_noises: int) -> None:
        """Raises unless it can weigh so many; nothing, unless overridden.

        **Arguments:**

        - `num_noises`: For each image.
        """
        del num_noises


class BestAndWorst(AbstractNoiseWeights):
    r"""Weighs the best noises of an image, and the worst with a minus: RewardSDS.

    $$\frac{w_+}{k_+} \sum_{i \in \mathrm{best}} g_i
      - \frac{w_-}{k_-} \sum_{i \in \mathrm{worst}} g_i$$

    The defaults are those of the published code.
    """

    num_best: int = eqx.field(static=True)
    num_worst: int = eqx.field(static=True)
    best_weight: Real = eqx.field(static=True)
    worst_weight: Real = eqx.field(static=True)

    def __init__(
        self,
        num_best: WholeLike = 2,
        num_worst: WholeLike = 2,
        best_weight: RealLike = 0.9,
        worst_weight: RealLike = 0.1,
    ):
        """**Arguments:**

        - `num_best`: $k_+$, at least 1.
        - `num_worst`: $k_-$; 0 is the best alone.
        - `best_weight`, `worst_weight`: $w_+$ and $w_-$.
        """
        self.num_best = check_whole("num_best", num_best)
        self.num_worst = check_whole("num_worst", num_worst, least=0)
        self.best_weight = positive("best_weight", best_weight)
        self.worst_weight = finite("worst_weight", worst_weight)

    def check(self, num_noises: int) -> None:
        if self.num_best + self.num_worst > num_noises:
            raise ValueError(
                "`num_best` and `num_worst` must be different noises of the "
                f"`num_noises`, {num_noises}; got {self.num_best} and "
                f"{self.num_worst}."
            )

    def __call__(
        self, rewards: Float[Array, "noises batch"]
    ) -> Float[Array, "noises batch"]:
        # What is not a number is among the worst.
        known = jnp.where(jnp.isnan(rewards), -jnp.inf, rewards)
        rank = jnp.argsort(jnp.argsort(known, axis=0, descending=True), axis=0)
        of_best = self.best_weight / self.num_best
        of_worst = -self.worst_weight / max(self.num_worst, 1)
        weights = jnp.where(rank < self.num_best, of_best, 0.0)
        is_worst = rank >= len(rewards) - self.num_worst
        return jnp.where(is_worst, of_worst, weights).astype(jnp.float32)


class Softmax(AbstractNoiseWeights):
    r"""Weighs the noises of an image by $\mathrm{softmax}(r / \tau)$."""

    temperature: Real = eqx.field(static=True)

    def __init__(self, temperature: RealLike):
        r"""**Arguments:**

        - `temperature`: $\tau$, in units of the reward.
        """
        self.temperature = positive("temperature", temperature)

    def __call__(
        self, rewards: Float[Array, "noises batch"]
    ) -> Float[Array, "noises batch"]:
        return jax.nn.softmax(rewards / self.temperature, axis=0)


class RewardedNoises(eqx.Module):
    """Draws several noises for each rendering, and weighs them by what they lead to.

    From every noise the model finishes the picture, by a few steps of DDIM; the reward
    of that picture says how much the noise counts. Costs as many evaluations of the
    model, which the reward need not be differentiable for.

    ??? cite

        [RewardSDS](https://arxiv.org/abs/2503.09601), section 4. The numbers are those
        of its code; it finishes pictures in 15 steps.
    """

    reward: AbstractReward
    weights: AbstractNoiseWeights
    num_noises: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def __init__(
        self,
        reward: Reward,
        weights: AbstractNoiseWeights = BestAndWorst(),
        num_noises: WholeLike = 8,
        num_steps: WholeLike = 15,
    ):
        """**Arguments:**

        - `reward`: Judges what the noises lead to: a reward, or a function of images.
        - `weights`: Makes weights of the rewards.
        - `num_noises`: For each image.
        - `num_steps`: From the time that was drawn to the picture; 1 is a jump.
        """
        check_is("weights", weights, AbstractNoiseWeights, "BestAndWorst()")
        self.num_noises = check_whole("num_noises", num_noises)
        self.num_steps = check_whole("num_steps", num_steps)
        weights.check(self.num_noises)
        self.reward = as_reward(reward)
        self.weights = weights
