import abc
from typing import Any, Literal, TypeAlias

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._checks import check_whole
from ...pipeline import Pipeline
from ...rewards import AbstractReward
from ._round_method import AbstractRoundMethod, Rollout


Normalization: TypeAlias = Literal["per_prompt", "batch"]


class LatestRewards(eqx.Module):
    """Holds the latest rewards of each row of a table, on the host.

    **Arguments:**

    - `rewards`: A ring for each row, `[rows, size]`.
    - `counts`: How many rewards each row has ever had.
    """

    rewards: Float[np.ndarray, "rows size"]
    counts: Int[np.ndarray, " rows"]

    def with_more(
        self, rows: Int[np.ndarray, " batch"], rewards: Float[np.ndarray, " batch"]
    ) -> "LatestRewards":
        """Adds a reward for each of some `rows`, in their order, over the oldest."""
        latest, counts = self.rewards.copy(), self.counts.copy()
        for row, reward in zip(rows, rewards, strict=True):
            latest[row, counts[row] % latest.shape[1]] = reward
            counts[row] += 1
        return LatestRewards(latest, counts)

    def of(self, row: int) -> Float[np.ndarray, " known"]:
        """Lists those of a `row`, in no order."""
        return self.rewards[row, : self.counts[row]]


class AbstractAdvantageMethod(AbstractRoundMethod):
    r"""Weighs images by their advantages, $(r - \mu) / \sigma$.

    $\mu$ and $\sigma$ are those of the batch or, with `"per_prompt"`, of the latest
    rewards of the same row: prompts that are hard then teach as much as others. A row
    that has been seen less than `min_count` times uses those of the batch.

    It asks nothing of the reward but numbers, and learns nothing but the model.

    ??? cite

        [DDPO](https://arxiv.org/abs/2305.13301), section 4.3 and appendix.
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
            "`updates=draftx.Updates(minibatch_size=1)` of the method."
        )

    def remember(self, num_rows: int) -> LatestRewards | None:
        if self.normalization == "batch":
            return None
        shape = (num_rows, self.buffer_size)
        return LatestRewards(np.zeros(shape), np.zeros(num_rows, np.int64))

    def weigh(
        self,
        remembered: LatestRewards | None,
        rows: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> tuple[Float[np.ndarray, " batch"], LatestRewards | None]:
        mean = np.full(rewards.shape, rewards.mean())
        std = np.full(rewards.shape, rewards.std())
        if remembered is not None:
            remembered = remembered.with_more(rows, rewards)
            for i, row in enumerate(rows.tolist()):
                latest = remembered.of(row)
                if len(latest) >= self.min_count:
                    mean[i], std[i] = np.mean(latest), np.std(latest)
        advantages = (rewards - mean) / (std + 1e-6)
        return self.weigh_advantages(advantages), remembered

    def start(self, reward: AbstractReward, key: PRNGKeyArray) -> tuple[None, None]:
        del reward, key
        return None, None

    def learn(
        self, learned: Any, constant: Any, pipeline: Pipeline, rollout: Rollout
    ) -> tuple[None, dict[str, Float[Array, ""]]]:
        del learned, constant, pipeline, rollout
        return None, {}


def check_normalization(normalization: str, buffer_size: int, min_count: int) -> None:
    """Raises unless advantages can be made with these."""
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
