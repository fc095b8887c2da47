"""Rewards made of several: their sum, or one for each prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._autodiff import stop_gradient
from .._checks import finite, is_traced
from .._custom_types import Images, RealLike
from .._table import Rows, Table
from .contract import AbstractReward, as_reward, Reward, Scores


class WeightedSum(AbstractReward):
    r"""Adds rewards: $r(x, p) = \sum_i w_i r_i(x, p)$.

    A negative weight makes a penalty.

    Rewards differ in scale by factors of a hundred: weigh them, or bring them to one
    scale with [`draftx.rewards.Normalized`][].
    """

    weights: Float[Array, " terms"]
    rewards: tuple[AbstractReward, ...]
    names: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        rewards: Sequence[Reward],
        weights: Sequence[RealLike],
        names: Sequence[str] | None = None,
    ):
        _check_rewards(rewards)
        if len(weights) != len(rewards):
            raise ValueError(
                "`weights` must have one number for each reward; got "
                f"{len(weights)} for {len(rewards)} rewards."
            )
        self.weights = jnp.asarray([_weight(weight) for weight in weights], jnp.float32)
        self.rewards = tuple(as_reward(reward) for reward in rewards)
        self.names = None if names is None else _names(names, len(rewards))

    __init__.__doc__ = """**Arguments:**

    - `rewards`: At least one: rewards, or functions of images, or of images and rows.
    - `weights`: One for each. They are an array of the reward, so that one program
        serves for all weights.
    - `names`: One for each, to be told apart by in the history of a training, as
        `reward/name`. What is within a reward of this name is `name/inner`. `None`:
        there are only the names of sums within.
    """

    def prepare(self, rows: Rows) -> Any:
        return _prepare_all(self.rewards, rows)

    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        return self.judge(images, features).total

    def judge(self, images: Images, features: Any = None) -> Scores:
        found = _judge_all(self.rewards, images, features, "WeightedSum")
        scores = jnp.stack([term.total for term in found])
        total = jnp.sum(self.weights[:, None] * scores, axis=0)
        return Scores(total, stop_gradient(_components(found, self.names)))


class PerPrompt(AbstractReward):
    """Scores each image by one of several rewards, chosen by its prompt.

    Every reward is computed for every image, and all but one of them thrown away. It
    has no components: most images would have none of them.
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
        found = _judge_all(self.rewards, images, of_rewards, "PerPrompt")
        scores = jnp.stack([one.total for one in found])
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


def _judge_all(
    rewards: tuple[AbstractReward, ...], images: Images, features: Any, name: str
) -> list[Scores]:
    if features is None:
        features = (None,) * len(rewards)
    if not isinstance(features, tuple) or len(features) != len(rewards):
        raise ValueError(_missing(name))
    return [r.judge(images, f) for r, f in zip(rewards, features, strict=True)]


def _components(
    found: Sequence[Scores], names: tuple[str, ...] | None
) -> dict[str, Array]:
    """The scores of named rewards, and of what is named within any of them."""
    parts: list[tuple[str, Array]] = []
    for i, scores in enumerate(found):
        prefix = ""
        if names is not None:
            parts.append((names[i], scores.total))
            prefix = f"{names[i]}/"
        parts += [(f"{prefix}{name}", x) for name, x in scores.components.items()]
    _check_different([name for name, _ in parts])
    return dict(parts)


def _names(names: Sequence[str], count: int) -> tuple[str, ...]:
    wrong = [n for n in names if not isinstance(n, str) or not n]
    if isinstance(names, str) or len(names) != count or wrong:
        raise ValueError(
            "`names` must be None or one word for each reward; got "
            f"{names!r} for {count} rewards."
        )
    _check_different(names)
    return tuple(names)


def _check_different(names: Sequence[str]) -> None:
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise ValueError(
            "`names` must be different in a WeightedSum and in those within it; got "
            f"{twice[0]!r} more than once."
        )


def _missing(name: str) -> str:
    return (
        f"`features` must be what `{name}.prepare` gives. Call "
        "`reward(images, reward.prepare(rows))`."
    )
