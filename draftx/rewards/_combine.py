"""Rewards made of rewards."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import finite, is_traced
from .._custom_types import Images, Real, RealLike
from .._table import Rows, Table
from .contract import AbstractReward, as_reward, Reward


class WeightedSum(AbstractReward):
    r"""Adds rewards: $r(x, p) = \sum_i w_i r_i(x, p)$.

    A negative weight makes a penalty.

    Rewards differ in scale by factors of a hundred: weigh them, or bring them to one
    scale with [`draftx.rewards.Normalized`][].
    """

    weights: Float[Array, " terms"]
    rewards: tuple[AbstractReward, ...]

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[RealLike]):
        _check_rewards(rewards)
        if len(weights) != len(rewards):
            raise ValueError(
                "`weights` must have one number for each reward; got "
                f"{len(weights)} for {len(rewards)} rewards."
            )
        self.weights = jnp.asarray([_weight(weight) for weight in weights], jnp.float32)
        self.rewards = tuple(as_reward(reward) for reward in rewards)

    __init__.__doc__ = """**Arguments:**

    - `rewards`: At least one: rewards, or functions of images, or of images and rows.
    - `weights`: One for each. They are an array of the reward, so that one program
        serves for all weights.
    """

    def prepare(self, rows: Rows) -> Any:
        return _prepare_all(self.rewards, rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        scores = _score_all(self.rewards, images, features, "WeightedSum")
        return jnp.sum(self.weights[:, None] * scores, axis=0)


class Negated(AbstractReward):
    """Turns a reward around, $-r$: what was to be sought is avoided."""

    reward: AbstractReward

    def __init__(self, reward: Reward):
        self.reward = as_reward(reward)

    __init__.__doc__ = """**Arguments:**

    - `reward`: $r$, a reward or a function of images, or of images and rows.
    """

    def prepare(self, rows: Rows) -> Any:
        return self.reward.prepare(rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        return -self.reward(images, features)


class Normalized(AbstractReward):
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

    def prepare(self, rows: Rows) -> Any:
        return self.reward.prepare(rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        return (self.reward(images, features) - self.mean) / self.std


class Clipped(AbstractReward):
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

    def prepare(self, rows: Rows) -> Any:
        return self.reward.prepare(rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        return jnp.clip(self.reward(images, features), self.minimum, self.maximum)


class Thresholded(AbstractReward):
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

    def prepare(self, rows: Rows) -> Any:
        return self.reward.prepare(rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        score = self.reward(images, features)
        is_below = score < self.threshold
        return jnp.where(is_below, score - self.threshold, jnp.zeros_like(score))


class PerPrompt(AbstractReward):
    """Scores each image by one of several rewards, chosen by its prompt.

    Every reward is computed for every image, and all but one of them thrown away.
    """

    rewards: tuple[AbstractReward, ...]
    choose: Callable[[str], int] = eqx.field(static=True)

    def __init__(self, rewards: Sequence[Reward], choose: Callable[[str], int]):
        _check_rewards(rewards)
        self.rewards = tuple(as_reward(reward) for reward in rewards)
        self.choose = choose

    __init__.__doc__ = """**Arguments:**

    - `rewards`: At least one: rewards, or functions of images, or of images and rows.
    - `choose`: Gives the index of a prompt's reward, from 0. Called on the host, once
        for each row.
    """

    def prepare(self, rows: Rows) -> Any:
        prompts = Table.of(rows).prompts
        indices = np.asarray([self._choose(p) for p in prompts], np.int32)
        return jnp.asarray(indices), _prepare_all(self.rewards, rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        if features is None:
            raise ValueError(_missing("PerPrompt"))
        indices, of_rewards = features
        scores = _score_all(self.rewards, images, of_rewards, "PerPrompt")
        return jnp.take_along_axis(scores, indices[None], axis=0)[0]

    def _choose(self, prompt: str) -> int:
        index = self.choose(prompt)
        if index not in range(len(self.rewards)):
            raise ValueError(
                f"`choose` must give an index from 0 to {len(self.rewards) - 1}; got "
                f"{index!r} for {prompt!r}."
            )
        return index


def _weight(value: Any) -> Any:
    # An array of the reward, and one that may be learned.
    return value if is_traced(value) else finite("weights", value)


def _check_rewards(rewards: Sequence[Reward]) -> None:
    wrong = [reward for reward in rewards if not callable(reward)]
    if len(rewards) == 0 or wrong:
        got = f"a {type(wrong[0]).__name__} among them" if wrong else "none"
        raise ValueError(
            "`rewards` must be one reward or more, each an AbstractReward or a "
            f"function of images; got {got}."
        )


def _prepare_all(rewards: tuple[AbstractReward, ...], rows: Rows) -> Any:
    """What each reward prepared, or `None` if none of them looks at rows."""
    prepared = tuple(reward.prepare(rows) for reward in rewards)
    return None if all(p is None for p in prepared) else prepared


def _score_all(
    rewards: tuple[AbstractReward, ...], images: Images, features: Any, name: str
) -> Float[Array, "terms batch"]:
    if features is None:
        features = (None,) * len(rewards)
    if not isinstance(features, tuple) or len(features) != len(rewards):
        raise ValueError(_missing(name))
    return jnp.stack([r(images, f) for r, f in zip(rewards, features, strict=True)])


def _missing(name: str) -> str:
    return (
        f"`features` must be what `{name}.prepare` gives. Call "
        "`reward(images, reward.prepare(rows))`."
    )
