import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from .._custom_types import Latents, Real
from .._mesh import everywhere, to_mesh
from .._table import Table
from ..pipeline import (
    Batch,
    check_channels,
    condition,
    Conditioning,
    encode_texts,
    make_plan,
    Pipeline,
    place,
    Plan,
    Sampling,
    take_rows,
)
from ..rewards import (
    AbstractReward,
    as_reward,
    check_scores,
    probe_host_rewards,
    Reward,
)
from ._memory import Memory


class Task(eqx.Module):
    """Binds a table of rows to the model that draws its images and to its reward.

    What training, rounds and searches are given; `batch` picks some of the rows.

    **Arguments:**

    - `pipeline`: Draws the images.
    - `reward`: Judges them.
    - `conditioning`: Of all rows, one each.
    - `features`: What the reward prepared of all rows.
    - `plan`: The options of sampling.
    - `memory`: What is computed again, and how many images at once.
    """

    pipeline: Pipeline
    reward: AbstractReward
    conditioning: Conditioning
    features: Any
    plan: Plan
    memory: Memory = eqx.field(static=True)

    def __len__(self) -> int:
        """The number of rows."""
        return self.conditioning.input_ids.shape[0]

    def encoded(self) -> "Task":
        """Asks the text encoder once about all rows, instead of in every program.

        Once it is clear what is trained: see [`draftx.pipeline.encode_texts`][], which
        says when that is possible, and when the task stays as it is.
        """
        pipeline, conditioning = encode_texts(self.pipeline, self.conditioning)
        return dataclasses.replace(self, pipeline=pipeline, conditioning=conditioning)

    def on_mesh(self, mesh: Mesh) -> "Task":
        """Puts a task on devices: frozen weights may be divided, all else is on each.

        **Arguments:**

        - `mesh`: Of the devices.
        """
        names = ("reward", "conditioning", "features", "plan")
        parts = {name: getattr(self, name) for name in names}
        return dataclasses.replace(
            self,
            pipeline=place(self.pipeline, mesh),
            **to_mesh(parts, everywhere(mesh)),
        )

    def batch(
        self,
        latents: Latents,
        key: PRNGKeyArray,
        rows: Int[Array, " batch"] | None = None,
    ) -> Batch:
        """Makes the batch of some of the rows.

        **Arguments:**

        - `latents`: The noise to start from, one for each image.
        - `key`: Draws all that is random after it.
        - `rows`: Which; `None` is all, in their order.
        """
        conditioning, features = self.conditioning, self.features
        if rows is not None:
            conditioning = conditioning.take(rows)
            features = take_rows(features, rows)
        return Batch(conditioning, latents, key, self.plan, features)


def make_task(
    pipeline: Pipeline,
    reward: Reward,
    table: Table,
    sampling: Sampling,
    *,
    shape: tuple[int, ...],
    memory: Memory = Memory(),
    eta: Real | None = None,
    judged: Table | None = None,
) -> Task:
    """Makes a task, once it is clear that each of its parts works with the others.

    **Arguments:**

    - `pipeline`, `reward`, `table`, `sampling`, `memory`: Of the task.
    - `shape`: Of the latents of one batch.
    - `eta`: As for `make_plan`.
    - `judged`: What the reward is told, if it is not `table`.

    Raises a `ValueError` that names the argument, or a `RewardError` for a reward that
    does not give one score for each image: found out by tracing alone.
    """
    plan = make_plan(pipeline, sampling, eta=eta)
    memory.check(shape[0])
    check_channels(pipeline, table, shape)
    reward, judged = as_reward(reward), table if judged is None else judged
    features = reward.prepare(judged)
    images = image_spec(pipeline, shape)
    check_scores(reward, images, features)
    probe_host_rewards(reward, images.shape, judged)
    conditioning = condition(pipeline, table, sampling, shape)
    return Task(pipeline, reward, conditioning, features, plan, memory)


def image_spec(pipeline: Pipeline, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Finds shape and dtype of the images of latents of this shape.

    **Arguments:**

    - `pipeline`: Whose decoder makes the images.
    - `shape`: Of the latents.
    """
    latents = jax.ShapeDtypeStruct(shape, jnp.float32)
    return eqx.filter_eval_shape(pipeline.decode, latents)
