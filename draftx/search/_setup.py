"""What all searches share: making a task of a question, and drawing its images."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import check_is
from .._compilation import compiled
from .._custom_types import Images, Latents
from .._mesh import mesh_of
from .._scaled_gradient import scaled_call
from .._table import Table
from ..diffusion import Chain, run_truncated
from ..episodes import image_spec, make_task, Task
from ..io.checkpoints import describe
from ..pipeline import Batch, decoding, Pipeline, Sampling, spread, starting_noise
from ..rewards import Reward


class Question(eqx.Module):
    """Holds a task and its batch: rows of which images are wanted, and who judges.

    **Arguments:**

    - `task`, `batch`: What is asked for.
    - `mesh`: Devices that the batch is divided over; `None` is none.
    """

    task: Task
    batch: Batch
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @property
    def is_guided(self) -> bool:
        """Whether each step asks the model twice for an image."""
        return self.batch.plan.guidance_scale is not None

    def chain(self) -> Chain:
        """Makes the chain, whose noise is that of `draftx.sample`."""
        batch = self.batch
        return self.task.pipeline.chain(
            batch.plan, batch.conditioning, key=batch.key, mesh=self.mesh
        )

    def run(self, latents: Latents, *, truncation_steps: int | None = 0) -> Latents:
        """Runs the chain from starting noise to clean latents."""
        return run_truncated(self.chain(), latents, truncation_steps).latents

    def judge(self, clean: Latents) -> tuple[Images, Float[Array, " batch"]]:
        """Decodes `clean` latents; gives the images and their rewards."""
        images = decoding(self.task.pipeline.decode, self.mesh)(clean)
        return images, self.score(images)

    def score(self, images: Images) -> Float[Array, " batch"]:
        """Rewards images, one for each row."""
        scores = scaled_call(self.task.reward, images, self.batch.features)
        return scores.astype(jnp.float32)


def ask(
    pipeline: Pipeline,
    reward: Reward,
    table: Table,
    sampling: Sampling,
    *,
    key: PRNGKeyArray | None,
    latents: Any,
    judged: Table | None = None,
) -> Question:
    """Checks what a search is asked for, before any long work.

    **Arguments:**

    - `pipeline`, `table`, `sampling`, `key`, `latents`: As for `draftx.sample`, whose
        images are drawn with the same key.
    - `reward`: Any.
    - `judged`: What the reward is told, if it is not `table`.
    """
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    if jax.process_count() > 1:
        raise ValueError(
            "A search must run on one host; there are "
            f"{jax.process_count()} processes. Give each its own part of the prompts."
        )
    latents, later_key = starting_noise(
        pipeline, len(table), sampling, key=key, latents=latents
    )
    shape = latents.shape
    task = make_task(pipeline, reward, table, sampling, shape=shape, judged=judged)
    task = task.encoded()
    mesh = mesh_of(pipeline)
    if mesh is not None:
        task = task.on_mesh(mesh)
    return Question(task, *spread(task.batch(latents, later_key), mesh))


@compiled()
def draw(question: Question) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """Draws images: these, what they were decoded from, and their rewards."""
    clean = question.run(question.batch.latents)
    images, rewards = question.judge(clean)
    return images, clean, rewards


def no_images(
    pipeline: Pipeline, question: Question
) -> tuple[Images, Latents, Float[Array, " batch"]]:
    """Makes what any drawn images are better than: their rewards are no numbers.

    **Arguments:**

    - `pipeline`: Whose decoder would make the images.
    - `question`: Asks for them.
    """
    latents = jnp.zeros_like(question.batch.latents)
    images = image_spec(pipeline, latents.shape)
    black = jnp.zeros(images.shape, images.dtype)
    return black, latents, jnp.full(len(latents), jnp.nan, jnp.float32)


def facts(
    name: str,
    pipeline: Pipeline,
    question: Question,
    table: Table,
    options: Mapping[str, Any],
) -> dict[str, str]:
    """Describes what decides the course of a search, for its checkpoints.

    **Arguments:**

    - `name`: Of the search.
    - `pipeline`, `table`: As its user gave them.
    - `question`: Made of them.
    - `options`: Everything else, by the name that its user gave it.
    """
    batch = question.batch
    known = {"reward": question.task.reward, "latents": batch.latents}
    return describe(
        f"search by {name}", pipeline, table, batch.key, known | {**options}
    )
