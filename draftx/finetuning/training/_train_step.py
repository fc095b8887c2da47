"""One step of training, compiled."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._compilation import compiled
from ...episodes import Task
from ...pipeline import divided, Pipeline
from ...rewards import with_key
from ..estimators import AbstractGradientEstimator
from ._joined import norm_of
from ._optimizer import ascend, learning_rate
from ._reward_gradient import value_and_grad


class TrainState(eqx.Module):
    """Holds what a training changes.

    **Arguments:**

    - `trainable`: The pipeline's adapter and learned inputs; `None` for the rest.
    - `opt_state`: Of the optimizer.
    """

    trainable: Pipeline
    opt_state: Any


class Training(eqx.Module):
    """Holds what a training does not change.

    **Arguments:**

    - `task`: Without what is trained.
    - `method`, `optimizer`: How its gradient is estimated, and followed.
    - `key`: Draws all that is random.
    - `mesh`: The devices that a batch is split over.
    - `shape`: Of the latents of a batch.
    """

    task: Task
    method: AbstractGradientEstimator
    key: PRNGKeyArray
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)


# The state's arrays are given up: it is updated in place.
@compiled(donate="all-except-first")
def train_step(
    training: Training, state: TrainState, step: Int[Array, ""]
) -> tuple[TrainState, dict[str, Array]]:
    """Draws a batch, estimates the gradient, updates the adapter.

    If a reward or the gradient is not finite, adapter and optimizer stay as they were.
    Runs that differ only in arrays share one program.

    **Arguments:**

    - `training`: What stays the same.
    - `state`: Before the step; its arrays cannot be used again.
    - `step`: Its number.

    **Returns:**

    The state after the step; and `rewards`, what they are made of, `components`,
    `prompts` (the rows drawn), `gradient_norm`, `is_finite`, and `learning_rate` if the
    optimizer says it.
    """
    task, shape = training.task, training.shape
    prompt_key, latents_key, method_key, reward_key = jr.split(
        jr.fold_in(training.key, step), 4
    )
    rows = jr.randint(prompt_key, shape[:1], 0, len(task))
    latents: Float[Array, "batch height width channels"] = jr.normal(
        latents_key, shape, jnp.float32
    )
    batch = task.batch(latents, method_key, rows)
    batch = divided(batch, training.mesh)
    task = eqx.tree_at(lambda t: t.reward, task, with_key(task.reward, reward_key))
    (_, scores), gradient = value_and_grad(
        state.trainable, task, training.method, batch, training.mesh
    )
    gradient_norm = norm_of(gradient)
    is_finite = jnp.isfinite(gradient_norm) & jnp.all(jnp.isfinite(scores.total))
    trainable, opt_state = ascend(
        training.optimizer, gradient, state.opt_state, state.trainable, is_finite
    )
    metrics = {
        "rewards": scores.total,
        "components": scores.components,
        "gradient_norm": gradient_norm,
        "is_finite": is_finite,
        "prompts": rows,
    }
    rate = learning_rate(opt_state)
    if rate is not None:
        metrics["learning_rate"] = rate
    return TrainState(trainable, opt_state), metrics
