import abc
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..._custom_types import Real
from ...diffusion import AbstractSampler, AbstractSteps, Chain, Record
from ...episodes import Budget
from ...layers import Remat
from ...pipeline import Batch, Pipeline, take_rows
from ...rewards import AbstractReward
from ._updates import Updates


class Rollout(eqx.Module):
    """Holds the images of a round: how they came about, and what became of them.

    **Arguments:**

    - `batch`: What they were drawn for.
    - `steps`, `record`: How the chain went.
    - `rewards`: What it led to.
    - `weights`: What the method made of that.
    - `times`: The steps that an update trains.
    - `remat`: What the backward pass computes again.
    - `is_current`: Whether the model has not changed since it drew them: what it says
        now is what it said then, however another program may round it.
    """

    batch: Batch
    steps: AbstractSteps
    record: Record
    rewards: Float[Array, " batch"]
    weights: Float[Array, " batch"]
    times: Int[Array, " trained"]
    remat: Remat = eqx.field(static=True)
    is_current: Bool[Array, ""] | bool = False

    def select(self, rows: Int[Array, " rows"], times: Int[Array, " times"]):
        """Takes the images `rows`, to be trained at the steps `times`."""
        batch, record = self.batch, self.record
        of_chain = jax.tree.map(
            lambda x: x[:, rows], (record.states, record.predictions)
        )
        part = Batch(
            batch.conditioning.take(rows),
            batch.latents[rows],
            batch.key,
            batch.plan,
            take_rows(batch.features, rows),
        )
        return Rollout(
            part,
            self.steps,
            Record(of_chain[0], of_chain[1], take_rows(record.end, rows)),
            self.rewards[rows],
            self.weights[rows],
            times,
            self.remat,
            self.is_current,
        )

    def chain(self, pipeline: Pipeline) -> Chain:
        """Makes the chain of these images, with the model as it is now.

        Each of its predictions is differentiated at once, so that whole steps are never
        computed again; their blocks are, if `remat` says so.
        """
        batch = self.batch
        return pipeline.chain(
            batch.plan, batch.conditioning, remat=self.remat.within_step
        )


class AbstractRoundMethod(eqx.Module):
    """Says how a model learns from a round of its own samples by several updates.

    `eta` is the noise of the chain that draws the samples, for samplers that take it,
    and `updates` says how a round is divided.
    """

    eta: eqx.AbstractVar[Real]
    updates: eqx.AbstractVar[Updates]

    @abc.abstractmethod
    def needs_reward_gradient(self) -> bool:
        """Says whether the reward must be differentiable in the images."""

    def check_batch(self, batch_size: int) -> None:
        """Raises a `ValueError` if a round of `batch_size` images teaches nothing.

        Unless a method says otherwise, every round does.
        """
        del batch_size

    @abc.abstractmethod
    def trained_steps(
        self, sampler: AbstractSampler, num_inference_steps: int
    ) -> Int[np.ndarray, " trained"]:
        """Finds the indices of the steps of a chain that can be trained.

        Raises a `ValueError` if there are none.

        **Arguments:**

        - `sampler`, `num_inference_steps`: Of the chain.
        """

    def remember(self, num_rows: int) -> Any:
        """Makes what is remembered before the first round.

        Arrays of NumPy, which are saved with a training. Unless a method says
        otherwise, nothing.

        **Arguments:**

        - `num_rows`: Of the table of prompts.
        """
        del num_rows

    @abc.abstractmethod
    def weigh(
        self,
        remembered: Any,
        rows: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> tuple[Float[np.ndarray, " batch"], Any]:
        """Weighs the images of a round; the weights, and what is remembered then.

        **Arguments:**

        - `remembered`: From `remember`, or the round before; it stays as it is.
        - `rows`: The row of each image; of equal rows, the first of them.
        - `rewards`: Of the images.
        """

    @abc.abstractmethod
    def start(self, reward: AbstractReward, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Makes what else is learned, as arrays, and what is constant in it.

        **Arguments:**

        - `reward`: What the images are judged by.
        - `key`: Draws the arrays.
        """

    @abc.abstractmethod
    def learn(
        self, learned: Any, constant: Any, pipeline: Pipeline, rollout: Rollout
    ) -> tuple[Any, dict[str, Float[Array, ""]]]:
        """Updates what else is learned; that, and figures for the history.

        **Arguments:**

        - `learned`, `constant`: From `start`, the former as the last round left it.
        - `pipeline`: The model as it drew the images.
        - `rollout`: All images of the round.
        """

    @abc.abstractmethod
    def objective(
        self,
        pipeline: Pipeline,
        learned: Any,
        constant: Any,
        rollout: Rollout,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Computes what an update ascends, and figures for the history.

        **Arguments:**

        - `pipeline`: The model as it is now.
        - `learned`, `constant`: From `start` and `learn`.
        - `rollout`: Some images, at some of the steps.
        - `key`: For methods that draw more noise.
        """

    @abc.abstractmethod
    def budget(
        self,
        num_inference_steps: int,
        batch_size: int,
        *,
        num_trained: int,
        guided: bool = True,
    ) -> Budget:
        """Says what a round costs that trains every image at `num_trained` steps.

        **Arguments:**

        - `num_inference_steps`, `batch_size`: Of the chain.
        - `num_trained`: Steps of each image.
        - `guided`: Whether every prediction takes two evaluations of the UNet.
        """
