"""Rewards made of rewards."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._custom_types import Images, Prompts, Real
from .._table import check_prompts
from .contract import AbstractReward


class WeightedSum(AbstractReward):
    r"""$r(x, p) = \sum_i w_i r_i(x, p)$; a negative weight makes a penalty.

    Rewards differ in scale by factors of a hundred: weigh them, or bring them to one
    scale with [`draftx.rewards.Normalized`][].
    """

    weights: Float[Array, " terms"]
    rewards: tuple[AbstractReward, ...]

    def __init__(self, rewards: Sequence[AbstractReward], weights: Sequence[Real]):
        """**Arguments:**

        - `rewards`: At least one.
        - `weights`: One for each. They are an array of the reward, so that one program
            serves for all weights.
        """
        _check_rewards(rewards)
        if len(weights) != len(rewards):
            raise ValueError(
                "`weights` must have one number for each reward; got "
                f"{len(weights)} for {len(rewards)} rewards."
            )
        self.weights = jnp.asarray(weights, jnp.float32)
        self.rewards = tuple(rewards)

    def prepare(self, prompts: Prompts) -> Any:
        return _prepare_all(self.rewards, prompts)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        scores = _score_all(self.rewards, images, prompts, "WeightedSum")
        return jnp.sum(self.weights[:, None] * scores, axis=0)


class Negated(AbstractReward):
    """$-r$: what was to be sought is avoided."""

    reward: AbstractReward

    def prepare(self, prompts: Prompts) -> Any:
        return self.reward.prepare(prompts)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        return -self.reward(images, prompts)


class Normalized(AbstractReward):
    r"""$(r - \mu) / \sigma$, with numbers measured on images of the model as it was."""

    reward: AbstractReward
    mean: Real = eqx.field(static=True)
    std: Real = eqx.field(static=True)

    def __init__(self, reward: AbstractReward, *, mean: Real = 0.0, std: Real = 1.0):
        r"""**Arguments:**

        - `reward`: $r$.
        - `mean`, `std`: $\mu$ and $\sigma$, the latter positive.
        """
        if not std > 0:
            raise ValueError(
                f"`std` must be positive; got {std}. `Negated` turns a reward around."
            )
        self.reward = reward
        self.mean = mean
        self.std = std

    def prepare(self, prompts: Prompts) -> Any:
        return self.reward.prepare(prompts)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        return (self.reward(images, prompts) - self.mean) / self.std


class Clipped(AbstractReward):
    """A reward within bounds, where it is what it was; beyond, there is no gradient."""

    reward: AbstractReward
    minimum: Real | None = eqx.field(static=True)
    maximum: Real | None = eqx.field(static=True)

    def __init__(
        self,
        reward: AbstractReward,
        *,
        minimum: Real | None = None,
        maximum: Real | None = None,
    ):
        """**Arguments:**

        - `reward`: What to clip.
        - `minimum`, `maximum`: The bounds, of which one may be `None`. Below a minimum
            nothing pulls an image up again.
        """
        if minimum is None and maximum is None:
            raise ValueError("`minimum` or `maximum` must be a number; got neither.")
        if minimum is not None and maximum is not None and not minimum < maximum:
            raise ValueError(
                "`minimum` must be less than `maximum`; got "
                f"minimum={minimum}, maximum={maximum}."
            )
        self.reward = reward
        self.minimum = minimum
        self.maximum = maximum

    def prepare(self, prompts: Prompts) -> Any:
        return self.reward.prepare(prompts)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        return jnp.clip(self.reward(images, prompts), self.minimum, self.maximum)


class Thresholded(AbstractReward):
    r"""$-\max(c - r, 0)$: what is missing to the threshold $c$, and zero above it.

    An image that is good enough is left alone, which keeps a reward from being pursued
    for its own sake.

    ??? cite

        As a loss, $\mathrm{relu}(c - r)$: ReFL, in
        [ImageReward](https://arxiv.org/abs/2304.05977), section 3.
    """

    reward: AbstractReward
    threshold: Real = eqx.field(static=True)

    def prepare(self, prompts: Prompts) -> Any:
        return self.reward.prepare(prompts)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        score = self.reward(images, prompts)
        is_below = score < self.threshold
        return jnp.where(is_below, score - self.threshold, jnp.zeros_like(score))


class PerPrompt(AbstractReward):
    """One of several rewards for each image, chosen by its prompt.

    Every reward is computed for every image, and all but one of them thrown away.
    """

    rewards: tuple[AbstractReward, ...]
    choose: Callable[[str], int] = eqx.field(static=True)

    def __init__(self, rewards: Sequence[AbstractReward], choose: Callable[[str], int]):
        """**Arguments:**

        - `rewards`: At least one.
        - `choose`: Gives the index of a prompt's reward, from 0. Called on the host,
            once for each prompt.
        """
        _check_rewards(rewards)
        self.rewards = tuple(rewards)
        self.choose = choose

    def prepare(self, prompts: Prompts) -> Any:
        check_prompts(prompts)
        indices = np.asarray([self._choose(p) for p in prompts], np.int32)
        return jnp.asarray(indices), _prepare_all(self.rewards, prompts)

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        if prompts is None:
            raise ValueError(_missing("PerPrompt"))
        indices, prompts = prompts
        scores = _score_all(self.rewards, images, prompts, "PerPrompt")
        return jnp.take_along_axis(scores, indices[None], axis=0)[0]

    def _choose(self, prompt: str) -> int:
        index = self.choose(prompt)
        if index not in range(len(self.rewards)):
            raise ValueError(
                f"`choose` must give an index from 0 to {len(self.rewards) - 1}; got "
                f"{index!r} for {prompt!r}."
            )
        return index


def _check_rewards(rewards: Sequence[AbstractReward]) -> None:
    wrong = [r for r in rewards if not isinstance(r, AbstractReward)]
    if len(rewards) == 0 or wrong:
        got = f"a {type(wrong[0]).__name__} among them" if wrong else "none"
        raise ValueError(f"`rewards` must be one AbstractReward or more; got {got}.")


def _prepare_all(rewards: tuple[AbstractReward, ...], prompts: Prompts) -> Any:
    """What each reward prepared, or `None` if none of them looks at prompts."""
    prepared = tuple(reward.prepare(prompts) for reward in rewards)
    return None if all(p is None for p in prepared) else prepared


def _score_all(
    rewards: tuple[AbstractReward, ...], images: Images, prompts: Any, name: str
) -> Float[Array, "terms batch"]:
    if prompts is None:
        prompts = (None,) * len(rewards)
    if not isinstance(prompts, tuple) or len(prompts) != len(rewards):
        raise ValueError(_missing(name))
    return jnp.stack([r(images, p) for r, p in zip(rewards, prompts, strict=True)])


def _missing(name: str) -> str:
    return (
        f"`prompts` must be what `{name}.prepare` gives. Call "
        "`reward(images, reward.prepare(prompts))`."
    )
