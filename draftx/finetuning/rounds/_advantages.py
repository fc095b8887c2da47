import abc
import collections
from typing import Any, Literal, TypeAlias

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._checks import check_whole
from ...pipeline import Pipeline
from ...rewards import AbstractReward
from ._round_method import AbstractRoundMethod, Rollout, Weigh


Normalization: TypeAlias = Literal["per_prompt", "batch"]


class AdvantageNormalizer:
    r"""Turns rewards into advantages, $(r - \mu) / \sigma$, on the host.

    $\mu$ and $\sigma$ are those of the batch or, with `"per_prompt"`, of the latest
    rewards of the same prompt: prompts that are hard then teach as much as others. A
    prompt that has been seen less than `min_count` times uses those of the batch.

    ??? cite

        [DDPO](https://arxiv.org/abs/2305.13301), section 4.3 and appendix.
    """

    def __init__(self, normalization: Normalization, buffer_size: int, min_count: int):
        self.normalization = normalization
        self.min_count = min_count
        new = lambda: collections.deque(maxlen=buffer_size)
        self.latest: dict[int, collections.deque[float]] = collections.defaultdict(new)

    def __call__(
        self, rows: Int[np.ndarray, " batch"], rewards: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        """**Arguments:**

        - `rows`: Which prompt each image is of: equal numbers for equal prompts.
        - `rewards`: Of the images.
        """
        mean = np.full(rewards.shape, rewards.mean())
        std = np.full(rewards.shape, rewards.std())
        if self.normalization == "per_prompt":
            for row, reward in zip(rows.tolist(), rewards.tolist(), strict=True):
                self.latest[row].append(reward)
            for i, row in enumerate(rows.tolist()):
                if len(self.latest[row]) >= self.min_count:
                    mean[i] = np.mean(self.latest[row])
                    std[i] = np.std(self.latest[row])
        return (rewards - mean) / (std + 1e-6)


class AbstractAdvantageMethod(AbstractRoundMethod):
    """Weighs images by their advantages.

    It asks nothing of the reward but numbers, and learns nothing but the model.
    """

    normalization: eqx.AbstractVar[Normalization]
    buffer_size: eqx.AbstractVar[int]
    min_count: eqx.AbstractVar[int]

    @abc.abstractmethod
    def weigh_advantages(
        self, advantages: Float[np.ndarray, " batch"]
    ) -> Float[np.ndarray, " batch"]:
        """Makes the weights of the images of a round."""

    def needs_reward_gradient(self) -> bool:
        return False

    def check_batch(self, batch_size: int) -> None:
        if batch_size > 1:
            return
        raise ValueError(
            f"`batch_size` must be at least 2 for {type(self).__name__}, which "
            "compares the images of a round: alone, an image has an advantage of 0, "
            f"and its reward no say; got {batch_size}. Updates of one image each are "
            "`updates=draftx.Updates(minibatch_size=1)`."
        )

    def weigh(self) -> Weigh:
        normalize = AdvantageNormalizer(
            self.normalization, self.buffer_size, self.min_count
        )
        return lambda rows, rewards: self.weigh_advantages(normalize(rows, rewards))

    def start(self, reward: AbstractReward, key: PRNGKeyArray) -> tuple[None, None]:
        del reward, key
        return None, None

    def learn(
        self, learned: Any, constant: Any, pipeline: Pipeline, rollout: Rollout
    ) -> tuple[None, dict[str, Float[Array, ""]]]:
        del learned, constant, pipeline, rollout
        return None, {}


def check_normalization(normalization: str, buffer_size: int, min_count: int) -> None:
    """Raises unless an `AdvantageNormalizer` can be made of these."""
    if normalization not in ("per_prompt", "batch"):
        raise ValueError(
            f"`normalization` must be 'per_prompt' or 'batch'; got {normalization!r}."
        )
    check_whole("buffer_size", buffer_size)
    check_whole("min_count", min_count)
    if normalization == "per_prompt" and buffer_size < 2:
        raise ValueError(
            "`buffer_size` must be at least 2 with 'per_prompt': a reward alone is its "
            f"own mean, and every advantage 0; got {buffer_size}."
        )
    # One reward is its own mean.
    least = 2 if normalization == "per_prompt" else 1
    if not least <= min_count <= buffer_size:
        raise ValueError(
            f"`min_count` must lie in [{least}, buffer_size]; got "
            f"min_count={min_count}, buffer_size={buffer_size}."
        )
