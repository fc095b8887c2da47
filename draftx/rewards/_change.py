"""Rewards made of one: turned around, scaled, bounded."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import finite
from .._custom_types import Images, Real, RealLike
from .._table import Rows
from .contract import AbstractReward, as_reward, Reward, Scores


class AbstractChanged(AbstractReward):
    """Scores images by a function of what a reward scores them."""

    reward: eqx.AbstractVar[AbstractReward]

    @abc.abstractmethod
    def change(self, scores: Float[Array, " batch"]) -> Float[Array, " batch"]:
        """Makes the scores of those of the reward within."""

    def prepare(self, rows: Rows) -> Any:
        return self.reward.prepare(rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        return self.change(self.reward(images, features))

    def judge(self, images: Images, features: Any = None) -> Scores:
        within = self.reward.judge(images, features)
        return Scores(self.change(within.total), within.components)


class Negated(AbstractChanged):
    """Turns a reward around, $-r$: what was to be sought is avoided."""

    reward: AbstractReward

    def __init__(self, reward: Reward):
        self.reward = as_reward(reward)

    __init__.__doc__ = """**Arguments:**

    - `reward`: $r$, a reward or a function of images, or of images and rows.
    """

    def change(self, scores: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return -scores


class Normalized(AbstractChanged):
    r"""Brings a reward to another scale, $(r - \mu) / \sigma$.

    The numbers are those measured on images of the model as it was.
    """

    reward: AbstractReward
    mean: Real = eqx.field(static=True)
    std: Real = eqx.field(static=True)

    def __init__(self, reward: Reward, *, mean: RealLike = 0.0, std: RealLike = 1.0):
        std = finite("std", std)
        if not std > 0:
            raise ValueError(
                f"`std` must be positive; got {std}. `Negated` turns a reward around."
            )
        self.reward = as_reward(reward)
        self.mean = finite("mean", mean)
        self.std = std

    __init__.__doc__ = r"""**Arguments:**

    - `reward`: $r$, a reward or a function of images, or of images and rows.
    - `mean`, `std`: $\mu$ and $\sigma$, the latter positive.
    """

    def change(self, scores: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return (scores - self.mean) / self.std


class Clipped(AbstractChanged):
    """Keeps a reward within bounds; beyond them there is no gradient."""

    reward: AbstractReward
    minimum: Real | None = eqx.field(static=True)
    maximum: Real | None = eqx.field(static=True)

    def __init__(
        self,
        reward: Reward,
        *,
        minimum: RealLike | None = None,
        maximum: RealLike | None = None,
    ):
        minimum = None if minimum is None else finite("minimum", minimum)
        maximum = None if maximum is None else finite("maximum", maximum)
        if minimum is None and maximum is None:
            raise ValueError("`minimum` or `maximum` must be a number; got neither.")
        if minimum is not None and maximum is not None and not minimum < maximum:
            raise ValueError(
                "`minimum` must be less than `maximum`; got "
                f"minimum={minimum}, maximum={maximum}."
            )
        self.reward = as_reward(reward)
        self.minimum = minimum
        self.maximum = maximum

    __init__.__doc__ = """**Arguments:**

    - `reward`: A reward or a function of images, or of images and rows.
    - `minimum`, `maximum`: The bounds, of which one may be `None`. Below a minimum
        nothing pulls an image up again.
    """

    def change(self, scores: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return jnp.clip(scores, self.minimum, self.maximum)


class Thresholded(AbstractChanged):
    r"""Scores what a reward lacks to a threshold $c$: $-\max(c - r, 0)$.

    An image that is good enough is left alone, which keeps a reward from being pursued
    for its own sake.

    ??? cite

        As a loss, $\mathrm{relu}(c - r)$: ReFL, in
        [ImageReward](https://arxiv.org/abs/2304.05977), section 3.
    """

    reward: AbstractReward
    threshold: Real = eqx.field(static=True)

    def __init__(self, reward: Reward, threshold: RealLike):
        self.reward = as_reward(reward)
        self.threshold = finite("threshold", threshold)

    __init__.__doc__ = """**Arguments:**

    - `reward`: $r$, a reward or a function of images, or of images and rows.
    - `threshold`: $c$, in units of the reward. Above it the score is zero.
    """

    def change(self, scores: Float[Array, " batch"]) -> Float[Array, " batch"]:
        is_below = scores < self.threshold
        return jnp.where(is_below, scores - self.threshold, jnp.zeros_like(scores))
