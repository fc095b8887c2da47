from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from ..._checks import check_is, is_traced
from ..._compilation import Program
from ..._mesh import mesh_of, whole
from ..._planned_memory import warn_if_too_much
from ..._table import Rows, Table
from ...episodes import image_spec, make_episode, make_task, Memory, Task
from ...pipeline import Batch, Pipeline, Sampling, spread, starting_noise
from ...rewards import check_differentiable, check_finite, Reward, Scores
from ..estimators import AbstractGradientEstimator
from ._callbacks import MEMORY_REMEDY
from ._tier import settle
from ._trained import check_reach, check_trained, trainable_filter


def reward_gradient(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    method: AbstractGradientEstimator,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    memory: Memory = Memory(),
) -> tuple[Float[Array, " batch"], Pipeline]:
    """Estimates the gradient of the mean reward with respect to the adapter.

    And to the learned inputs of the sampler, if there are any
    (`draftx.add_learned_inputs`).

    **Arguments:**

    - `pipeline`: With an adapter (`draftx.add_lora`). Everything else is frozen.
    - `reward`: Images `[batch, height, width, 3]` in $[0, 1]$ to scores `[batch]`; a
        function of images, or of images and the rows' arrays, or a
        `draftx.AbstractReward`.
    - `prompts`: One for each image, as for `draftx.sample`.
    - `sampling`: How images are sampled.
    - `method`: `draftx.DRaFT(...)`, `draftx.DRaFTLV(...)` or another estimator.
    - `key`: Draws the starting noise and what noise the method needs. `None` is
        `jax.random.key(0)`.
    - `latents`: Starting noise instead, as for `draftx.sample`.
    - `memory`: What is computed again, and how many images at once.

    **Returns:**

    The rewards of the images, and a pipeline that holds gradients at the adapter's
    arrays and `None` elsewhere; `draftx.lora_state_dict` names them. Add a multiple of
    the gradient to ascend.

    It compiles its own program, and cannot be called inside of `jax.jit`. Raises a
    `ValueError` that names the argument before any long work, and a `RewardError` for a
    reward without a finite score for each image, or without a gradient although the
    method needs one.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_is("method", method, AbstractGradientEstimator, "draftx.DRaFTLV()")
    check_is("memory", memory, Memory, 'draftx.Memory("block")')
    if any(map(is_traced, jax.tree.leaves((pipeline, key, latents)))):
        raise ValueError(
            "`pipeline`, `key` and `latents` of `reward_gradient` must be known "
            "numbers, looked at before a gradient is taken; got some that are traced "
            "by `jax.jit`, `jax.grad` or `jax.vmap`. Call it outside of them: it "
            "compiles its own program."
        )
    table = Table.of(prompts)
    method.check(sampling.num_inference_steps)
    method.check_batch(len(table))
    check_trained(pipeline, method, sampling)
    latents, later_key = starting_noise(
        pipeline, len(table), sampling, key=key, latents=latents
    )
    shape = latents.shape
    steps = method.steps_at_once(sampling.num_inference_steps)
    memory = settle(memory, pipeline, sampling, len(table), steps=steps)
    task = make_task(pipeline, reward, table, sampling, shape=shape, memory=memory)
    check_task(task, method, shape)
    task = task.encoded()
    mesh = mesh_of(pipeline)
    if mesh is not None:
        task = task.on_mesh(mesh)
    batch, mesh = spread(task.batch(latents, later_key), mesh)
    trainable, frozen = split(task)
    args = (trainable, frozen, method, batch, mesh)
    warn_if_too_much(_value_and_grad.plan(*args), "A gradient", MEMORY_REMEDY)
    (_, scores), gradient = _value_and_grad(*args)
    rewards = whole(scores.total)
    check_finite(rewards)
    return rewards, gradient


def check_task(
    task: Task, method: AbstractGradientEstimator, shape: tuple[int, ...]
) -> None:
    """Raises unless a method's gradient can reach what is trained.

    Its steps must move the images, and the reward have a gradient, if it needs one.

    **Arguments:**

    - `task`: Pipeline, reward and rows.
    - `method`: The estimator.
    - `shape`: Of the latents of one batch.
    """
    check_reach(method, task.plan)
    if method.needs_reward_gradient():
        size = task.memory.images_at_once or shape[0]
        images = image_spec(task.pipeline, (size, *shape[1:]))
        check_differentiable(task.reward, images, task.features)


def split(task: Task) -> tuple[Pipeline, Task]:
    """Splits off what is trained: the adapter, and the task that lacks it.

    **Arguments:**

    - `task`: With the whole pipeline.
    """
    is_trained = trainable_filter(task.pipeline)
    trainable, frozen = eqx.partition(task.pipeline, is_trained)
    return trainable, eqx.tree_at(
        lambda t: t.pipeline, task, frozen, is_leaf=lambda x: x is task.pipeline
    )


def objective(
    trainable: Pipeline,
    task: Task,
    method: AbstractGradientEstimator,
    batch: Batch,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], Scores]:
    """Computes the estimator's objective as a function of the adapter, and the rewards.

    **Arguments:**

    - `trainable`, `task`: From `split`.
    - `method`, `batch`: The estimator, and what it is given.
    - `mesh`: Devices that the batch is divided over.
    """
    pipeline = eqx.combine(trainable, task.pipeline)
    episode = make_episode(pipeline, task.reward, batch, task.memory, mesh=mesh)
    value, rewards = method(episode, batch.key)
    return value, rewards if isinstance(rewards, Scores) else Scores(rewards)


value_and_grad = eqx.filter_value_and_grad(objective, has_aux=True)
_value_and_grad = Program(value_and_grad)
