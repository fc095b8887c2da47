import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._custom_types import InputIds, NegativeInputIds, Real
from ..diffusion import AbstractDenoiser, DDIM, DDIMSteps
from ..layers import Remat
from ..pipeline import Pipeline
from ._budget import Budget
from ._estimator import Reward


Weigh: TypeAlias = Callable[
    [Int[np.ndarray, " batch"], Float[np.ndarray, " batch"]],
    Float[np.ndarray, " batch"],
]


class Samples(eqx.Module):
    """Images of a round, how they came about, and what became of them.

    `visited` holds the latents of the chain, from the first noise to the clean ones,
    `predictions` what the model said at each but the last, and `weights` what the
    method made of the rewards. `times` are the steps that an update trains.
    """

    input_ids: InputIds
    negative_ids: NegativeInputIds | None
    guidance_scale: Float[Array, ""]
    prompts: Any
    steps: DDIMSteps
    visited: Float[Array, "visited batch height width channels"]
    predictions: Float[Array, "steps batch height width channels"]
    rewards: Float[Array, " batch"]
    weights: Float[Array, " batch"]
    times: Int[Array, " trained"]
    remat: Remat = eqx.field(static=True)

    def select(self, rows: Int[Array, " rows"], times: Int[Array, " times"]):
        """Some of the images, to be trained at some of the steps."""
        of_batch = lambda s: (s.input_ids, s.prompts, s.rewards, s.weights)
        of_chain = lambda s: (s.visited, s.predictions)
        replaced = (
            *jax.tree.map(lambda x: x[rows], of_batch(self)),
            *jax.tree.map(lambda x: x[:, rows], of_chain(self)),
            times,
        )
        if self.negative_ids is not None and self.negative_ids.shape[0] > 1:
            raise ValueError("`negative_ids` must be one row for all images.")
        where = lambda s: (*of_batch(s), *of_chain(s), s.times)
        return eqx.tree_at(where, self, replaced, is_leaf=lambda x: x is None)

    def denoiser(self, pipeline: Pipeline) -> AbstractDenoiser:
        """The model with the conditioning of these images.

        Each of its calls is differentiated at once, so that whole steps are never
        computed again; their blocks are, if `remat` says so.
        """
        return pipeline.denoiser(
            self.steps,
            self.input_ids,
            self.negative_ids,
            self.guidance_scale,
            remat="none" if self.remat == "step" else self.remat,
        )


class AbstractRoundMethod(eqx.Module):
    """How a model learns from a round of its own samples by several updates.

    `eta` is the noise of the chain that draws the samples.
    """

    eta: eqx.AbstractVar[Real]

    @abc.abstractmethod
    def needs_reward_gradient(self) -> bool:
        """Whether the reward must be differentiable in the images."""

    @abc.abstractmethod
    def trained_steps(
        self, sampler: DDIM, num_inference_steps: int
    ) -> Int[np.ndarray, " trained"]:
        """The indices of the steps of a chain that can be trained.

        Raises a `ValueError` if there are none.
        """

    @abc.abstractmethod
    def weigh(self) -> Weigh:
        """A new function from prompts and rewards to weights; it may remember."""

    @abc.abstractmethod
    def start(self, reward: Reward, key: PRNGKeyArray) -> tuple[Any, Any]:
        """What else is learned, as arrays, and what is constant in it."""

    @abc.abstractmethod
    def learn(
        self, learned: Any, constant: Any, pipeline: Pipeline, samples: Samples
    ) -> tuple[Any, dict[str, Float[Array, ""]]]:
        """What else is learned, after an update of it, and figures for the history."""

    @abc.abstractmethod
    def objective(
        self,
        pipeline: Pipeline,
        learned: Any,
        constant: Any,
        samples: Samples,
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What an update ascends, and figures for the history."""

    @abc.abstractmethod
    def budget(
        self,
        num_inference_steps: int,
        batch_size: int,
        *,
        num_trained: int,
        guided: bool = True,
    ) -> Budget:
        """What a round costs that trains every image at `num_trained` steps."""
