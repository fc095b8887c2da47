from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
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
from ...episodes import make_task, Memory
from ...io.checkpoints import check_checkpoints, Checkpoints, describe
from ...pipeline import latent_shape, Pipeline, Sampling
from ...rewards import Reward, RewardError
from ..estimators import AbstractGradientEstimator
from ..evaluation import Evaluation
from ._callbacks import Callback, check_callbacks
from ._optimizer import adamw, as_optimizer, as_own, Optimizer
from ._progress_bar import ProgressBar
from ._result import FinetuneResult
from ._reward_gradient import check_task, split
from ._run import Run, to_default_device
from ._stopping import Stopping
from ._tier import settle
from ._train_step import train_step, Training, TrainState
from ._trained import check_trained


def finetune(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    method: AbstractGradientEstimator,
    key: PRNGKeyArray,
    num_train_steps: WholeLike,
    batch_size: WholeLike,
    optimizer: Optimizer = adamw(),
    memory: Memory = Memory(),
    evaluation: Evaluation | None = None,
    stopping: Stopping = Stopping(),
    callbacks: Sequence[Callback] = (ProgressBar(),),
    checkpoints: Checkpoints | None = None,
) -> FinetuneResult:
    r"""Trains the adapter of a pipeline to ascend a reward.

    Every step draws `batch_size` rows and as much starting noise from `key` and the
    step's number alone, estimates the gradient with `method`, and takes one step of the
    optimizer. The same key gives the same result. With several devices the batch is
    split evenly over all of them, those of other hosts too; `draftx.shard` divides the
    weights as well.

    A step with a reward or a gradient that is not finite leaves adapter and optimizer
    as they were, and is counted.

    **Arguments:**

    - `pipeline`: With an adapter (`draftx.add_lora`), with learned inputs of the
        sampler (`draftx.add_learned_inputs`), or both; the rest stays frozen. It stays
        usable.
    - `reward`: Images `[batch, height, width, 3]` in $[0, 1]$ to scores `[batch]`, as
        for `draftx.reward_gradient`.
    - `prompts`: What to draw from, uniformly with replacement: a list of strings, or a
        mapping of columns. They are encoded once, before the first step, unless the
        text encoder has an adapter or their embeddings would take more than 1 GiB.
    - `sampling`: How images are sampled.
    - `method`: The gradient estimator, such as `draftx.DRaFTLV()`.
    - `key`: Draws rows, noise, and what else is random.
    - `num_train_steps`, `batch_size`: At least 1; the batch must be divisible by the
        number of devices.
    - `optimizer`: Any of optax; `draftx.adamw()` is the paper's.
        `optax.MultiSteps(draftx.adamw(), k)` follows the mean of the gradients of `k`
        steps, which is the gradient of a batch `k` times the size: decay, clipping and
        schedules count such updates, not steps. With `draftx.with_ema(optimizer)` the
        average of the adapter over the updates is what is measured, given to callbacks
        and returned.
    - `memory`: What is computed again, and how many images at once.
    - `evaluation`: Measures the pipeline on held-out prompts before training, now and
        then, and at the end.
    - `stopping`: When training ends before its last step.
    - `callbacks`: Each called after every step with the row of the history and the
        pipeline as it is then: for saving, drawing, or stopping by an exception. `()`
        is silent.
    - `checkpoints`: Where the training is saved, and goes on from when it is called
        again; `None` is nowhere.

    **Returns:**

    The tuned pipeline, its history and the evaluations. A row of the history has
    `step`, `reward` (mean), `reward_std`, the same of each named reward in a sum,
    unweighted, as `reward/name` and `reward_std/name` (`draftx.rewards.WeightedSum`),
    `gradient_norm`, `learning_rate` (if the optimizer injects it, as `draftx.adamw`
    does), `skipped` (so many steps until now), `prompts` (the indices drawn), and,
    summed over the run, `seconds` and the other numbers of a [`draftx.Budget`][] if the
    method knows them. Where an evaluation followed, its figures are there as
    `held_out/score` and so on; those from before training are in the first row, as
    `before/score`.

    Raises a `ValueError` that names the argument before any work, and a `RewardError`
    if a reward has no gradient, no finite scores, or too many steps in a row without;
    its attribute `result` holds what had been reached.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    if evaluation is not None:
        example = 'draftx.Evaluation(["a fox"], {"mine": reward})'
        check_is("evaluation", evaluation, Evaluation, example)
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    check_is("method", method, AbstractGradientEstimator, "draftx.DRaFTLV()")
    check_is("memory", memory, Memory, 'draftx.Memory("block")')
    check_is("stopping", stopping, Stopping, "draftx.Stopping(max_skipped_steps=3)")
    check_key(key)
    optimizer = as_optimizer(optimizer)
    check_callbacks(callbacks)
    check_checkpoints(checkpoints)
    table, total = Table.of(prompts), sampling.num_inference_steps
    method.check(total)
    check_trained(pipeline, method, sampling)
    num_train_steps = check_whole("num_train_steps", num_train_steps)
    batch_size = check_whole("batch_size", batch_size)
    method.check_batch(batch_size)
    cost = method.budget(total, batch_size, guided=sampling.is_guided)
    stopping.check(evaluation, cost)
    mesh = mesh_of(pipeline) or data_mesh()
    check_divides("batch_size", batch_size, mesh)
    shape = (batch_size, *latent_shape(pipeline, sampling))
    memory = settle(
        memory,
        pipeline,
        sampling,
        batch_size,
        steps=method.steps_at_once(total),
        checkpoints=checkpoints,
    )
    if evaluation is not None:
        evaluation.check(pipeline)
    task = make_task(pipeline, reward, table, sampling, shape=shape, memory=memory)
    try:
        check_task(task, method, shape)
    except RewardError as error:
        error.result = FinetuneResult(pipeline, [])
        raise

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
    trainable, task = split(task.encoded())
    method, key = to_mesh((method, key), everywhere(mesh))
    training = Training(task.on_mesh(mesh), method, key, optimizer, mesh, shape)
    opt_state = optimizer.init(eqx.filter(trainable, eqx.is_array))
    state = as_own(TrainState(trainable, opt_state))
    state = to_mesh(state, everywhere(mesh))

    number = lambda step: to_mesh(jnp.asarray(step), everywhere(mesh))

    def take_step(state, step):
        state, metrics = train_step(training, state, number(step))
        return state, to_host(metrics)

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
    plan = lambda state: train_step.plan(training, state, number(0))
    return run.train(take_step, state, plan)
