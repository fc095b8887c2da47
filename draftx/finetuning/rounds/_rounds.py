"""Training in rounds: draw samples, score them, learn from them by several updates."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from ..._checks import check_is, check_whole
from ..._custom_types import WholeLike
from ..._keys import check_key
from ..._mesh import (
    check_divides,
    data_mesh,
    everywhere,
    mesh_of,
    to_host,
    to_mesh,
)
from ..._table import Rows, Table
from ...episodes import image_spec, make_task, Memory
from ...io.checkpoints import check_checkpoints, Checkpoints, describe
from ...lora import lora_filter
from ...pipeline import latent_shape, Pipeline, Sampling
from ...rewards import check_differentiable, Reward
from ..evaluation import Evaluation
from ..training import (
    adamw,
    as_optimizer,
    as_own,
    Callback,
    check_callbacks,
    check_trainable,
    FinetuneResult,
    Optimizer,
    ProgressBar,
    Run,
    settle,
    Stopping,
    to_default_device,
)
from ._round_method import AbstractRoundMethod
from ._round_programs import collect, improve, Progress, Rounds, RoundState


def finetune_in_rounds(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    method: AbstractRoundMethod,
    key: PRNGKeyArray,
    num_train_steps: WholeLike,
    batch_size: WholeLike,
    optimizer: Optimizer = adamw(3e-4, 1e-4, 1.0),
    memory: Memory = Memory(),
    evaluation: Evaluation | None = None,
    stopping: Stopping = Stopping(),
    callbacks: Sequence[Callback] = (ProgressBar(),),
    checkpoints: Checkpoints | None = None,
) -> FinetuneResult:
    r"""Trains the adapter of a pipeline on its own samples, several updates for each.

    `draftx.finetune` for methods that learn from what was drawn: every round draws
    `batch_size` images, scores them, and takes one optimizer step for every minibatch
    of them and every few of their sampling steps, both in random order. With several
    devices, rounds and minibatches are split over them.

    **Arguments:**

    - `pipeline`, `prompts`, `sampling`, `key`, `memory`, `evaluation`, `stopping`,
        `callbacks`, `checkpoints`: As for `draftx.finetune`, a round for a step. The
        images of an update must fit at one step, no matter how many steps it has. The
        noise of the chain is `method.eta`, for a sampler that takes it.
    - `reward`: Images to scores. Need not be differentiable, unless the method says so:
        `draftx.rewards.HostReward` makes one of any NumPy function.
    - `method`: `draftx.DDPO()`, `draftx.RewardWeighted()` or `draftx.DPG()`.
    - `num_train_steps`: The rounds, at least 1.
    - `batch_size`: The images of a round; at least 2 for a method that compares them.
    - `optimizer`: Any of optax; the default has the numbers of DDPO's authors. A
        schedule is given the number of updates, of which a round has several.
        `optax.MultiSteps` joins the gradients of several of them to one.

    **Returns:**

    The tuned pipeline, the evaluations, whether and why it ended early, and the
    history, one row a round: what `draftx.finetune` has, its
    `gradient_norm` the mean of the updates, the figures of the method, the `Budget` so
    far by its names, and `skipped`, the rounds so far that were not learned from
    because a reward was not finite. After too many in a row a `RewardError` is
    raised, its `result` what had been reached. An update whose gradient is not finite
    is left out; `skipped_updates` counts those of the round.

    Raises a `ValueError` that names the argument before any work.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    if evaluation is not None:
        example = 'draftx.Evaluation(["a fox"], {"mine": reward})'
        check_is("evaluation", evaluation, Evaluation, example)
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_is("method", method, AbstractRoundMethod, "draftx.DDPO()")
    check_is("memory", memory, Memory, 'draftx.Memory("block")')
    check_is("stopping", stopping, Stopping, "draftx.Stopping(max_skipped_steps=3)")
    check_key(key)
    optimizer = as_optimizer(optimizer)
    check_callbacks(callbacks)
    check_checkpoints(checkpoints)
    table = Table.of(prompts)
    check_trainable(pipeline)
    num_train_steps = check_whole("num_train_steps", num_train_steps)
    batch_size = check_whole("batch_size", batch_size)
    method.check_batch(batch_size)
    mesh = mesh_of(pipeline) or data_mesh()
    check_divides("batch_size", batch_size, mesh)
    shape = (batch_size, *latent_shape(pipeline, sampling))
    # Updates take the gradient of each step at once.
    memory = settle(
        memory, pipeline, sampling, batch_size, steps=1, checkpoints=checkpoints
    )
    if evaluation is not None:
        evaluation.check(pipeline)
    task = make_task(
        pipeline, reward, table, sampling, shape=shape, memory=memory, eta=method.eta
    )
    total = sampling.num_inference_steps
    trained = method.trained_steps(task.plan.sampler, total)
    schedule = method.updates.schedule(batch_size, len(trained))
    cost = method.budget(
        total,
        batch_size,
        num_trained=schedule.num_inner_epochs * schedule.num_trained,
        guided=sampling.is_guided,
    )
    stopping.check(evaluation, cost)
    if method.needs_reward_gradient():
        size = memory.images_at_once or batch_size
        images = image_spec(pipeline, (size, *shape[1:]))
        check_differentiable(task.reward, images, task.features)

    facts = None
    if checkpoints is not None:
        options = dict(
            reward=task.reward,
            sampling=sampling,
            method=method,
            batch_size=batch_size,
            memory=memory,
            optimizer=optimizer,
        )
        facts = describe("training", pipeline, table, key, options)
    key, start_key = jr.split(key)
    task = task.encoded()
    trainable, frozen = eqx.partition(task.pipeline, lora_filter(task.pipeline))
    learned, constant = method.start(task.reward, start_key)
    opt_state = optimizer.init(eqx.filter(trainable, eqx.is_array))
    state = as_own(RoundState(trainable, opt_state, learned))
    on_all = everywhere(mesh)
    state = to_mesh(state, on_all)
    task = eqx.tree_at(
        lambda t: t.pipeline, task, frozen, is_leaf=lambda x: x is task.pipeline
    )
    method, constant = to_mesh((method, constant), on_all)
    times, key = to_mesh((jnp.asarray(trained), key), on_all)
    rounds = Rounds(
        task.on_mesh(mesh), method, constant, times, optimizer, schedule, mesh, shape
    )
    first_equal = table.first_equal()

    def take_step(progress: Progress, step: int):
        round_key = jr.fold_in(key, step)
        state, remembered = progress.state, progress.remembered
        rollout, rows, components = collect(rounds, state.trainable, round_key)
        rows, rewards = to_host((rows, rollout.rewards))
        rewards = rewards.astype(np.float64)
        figures: dict[str, Any] = {}
        fine = bool(np.all(np.isfinite(rewards)))
        if fine:
            weights, remembered = method.weigh(remembered, first_equal[rows], rewards)
            weights = to_mesh(jnp.asarray(weights, jnp.float32), on_all)
            rollout = eqx.tree_at(lambda r: r.weights, rollout, weights)
            args = ((rounds, rollout), state, round_key)
            if not run.history:
                run.listeners.planned(improve.plan(*args))
            state, figures = improve(*args)
        metrics = {"rewards": rewards, "components": components, "prompts": rows}
        metrics |= {"is_finite": fine, **figures}
        return Progress(state, remembered), to_host(metrics)

    run = Run(
        whole=lambda trainable: eqx.combine(to_default_device(trainable), pipeline),
        num_train_steps=num_train_steps,
        evaluation=evaluation,
        stopping=stopping,
        cost=cost,
        callbacks=callbacks,
        checkpoints=checkpoints,
        facts=facts,
    )
    return run.train(take_step, Progress(state, method.remember(len(table))))
