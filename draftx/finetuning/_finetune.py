import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PRNGKeyArray

from .._checks import check_whole
from .._custom_types import Prompts, Real
from .._table import check_prompts
from ..diffusion import AbstractLoRASchedule
from ..layers import Remat
from ..pipeline import check_eta, check_guidance_scale, negative_input_ids, Pipeline
from ._budget import Budget
from ._checks import check_memory_options, prepare_reward, RewardError
from ._early_stopping import check_early_stopping, EarlyStopping
from ._estimator import AbstractGradientEstimator, Reward
from ._evaluation import Evaluation
from ._probe import check_differentiable
from ._result import FinetuneResult
from ._run import check_max_budget, Run, to_default_device
from ._train_step import adamw, train_step
from ._trainable import check_trained, trainable_filter


def finetune(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    method: AbstractGradientEstimator,
    key: PRNGKeyArray,
    num_train_steps: int,
    batch_size: int,
    learning_rate: Real | optax.Schedule = 4e-4,
    weight_decay: Real = 0.1,
    max_gradient_norm: Real | None = None,
    optimizer: optax.GradientTransformation | None = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    eta: Real = 0.0,
    lora_schedule: AbstractLoRASchedule | None = None,
    remat: Remat = "step",
    images_at_once: int | None = None,
    evaluation: Evaluation | None = None,
    early_stopping: EarlyStopping | None = None,
    max_budget: Budget | None = None,
    max_skipped_steps: int = 10,
    callback: Callable[[dict[str, Any], Pipeline], None] | None = None,
    show_progress: bool = True,
) -> FinetuneResult:
    r"""Trains the adapter of a pipeline to ascend a reward.

    Every step draws `batch_size` prompts and as much starting noise from `key` and the
    step's number alone, estimates the gradient with `method`, and takes one AdamW step.
    The same key gives the same result. With several devices the batch is split evenly
    over all of them.

    A step with a reward or a gradient that is not finite leaves adapter and optimizer
    as they were, and is counted.

    **Arguments:**

    - `pipeline`: With an adapter (`draftx.add_lora`), with learned inputs of the
        sampler (`draftx.add_learned_inputs`), or both; the rest stays frozen.
    - `reward`: Images `[batch, height, width, 3]` in $[0, 1]$ to scores `[batch]`.
    - `prompts`: What to draw prompts from, uniformly with replacement.
    - `method`: The gradient estimator, such as `draftx.DRaFTLV()`.
    - `num_train_steps`, `batch_size`: At least 1; the batch must be divisible by the
        number of devices.
    - `learning_rate`: A number or an optax schedule. The paper uses 4e-4 with batches
        of 4 for 2,000 steps, and 2e-4 with 16 for 10,000.
    - `weight_decay`: Of AdamW; its other parameters are 0.9 and 0.999.
    - `max_gradient_norm`: Clips the gradient by its global norm; the paper does not.
    - `optimizer`: Any optax optimizer, in place of AdamW and clipping.
    - `negative_prompts`: One for all images; `None` is the empty prompt.
    - `num_inference_steps`, `guidance_scale`, `eta`, `lora_schedule`: Of sampling, as
        for `draftx.sample`.
    - `remat`, `images_at_once`: Of memory, as for `draftx.reward_gradient`. With
        several devices `images_at_once` counts the images of all of them.
    - `evaluation`: Measures the pipeline on held-out prompts before training, now and
        then, and at the end.
    - `early_stopping`: Ends training when the evaluation says that only the reward
        itself still rises, and rolls back to the best.
    - `max_budget`: Training ends before the step that would exceed one of its numbers;
        those that are 0 are not limited. Evaluations and the callback are not counted,
        neither as pictures nor as time.
    - `max_skipped_steps`: How many steps in a row may be not finite; at that many,
        training is given up with a `RewardError`.
    - `callback`: Called after every step with the row of the history and the pipeline
        as it is then: for saving, drawing, or stopping by an exception.
    - `show_progress`: Whether to show a progress bar.

    **Returns:**

    The tuned pipeline, its history and the evaluations. A row of the history has
    `step`, `reward` (mean), `reward_std`, `gradient_norm`, `learning_rate`, `skipped`
    (so many steps until now), `prompts` (the indices drawn), and, summed over the run,
    `seconds` and the other numbers of a [`draftx.finetuning.Budget`][] if the method
    knows them. Where an evaluation followed, its figures are there as `held_out/score`
    and so on; those from before training are in the first row, as `before/score`.

    Raises a `ValueError` that names the argument before any work, and a `RewardError`
    if a reward has no gradient, no finite scores, or `max_skipped_steps` steps in a row
    without; its attribute `result` holds what had been reached.
    """
    check_prompts(prompts)
    check_eta(eta)
    check_guidance_scale(guidance_scale)
    pipeline.sampler.timesteps(num_inference_steps)  # Raises before any work.
    method.check(num_inference_steps)
    check_trained(
        pipeline,
        method,
        lora_schedule,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    for name, value in (
        ("num_train_steps", num_train_steps),
        ("batch_size", batch_size),
        ("max_skipped_steps", max_skipped_steps),
    ):
        check_whole(name, value)
    cost = method.budget(num_inference_steps, batch_size, guided=guidance_scale != 1)
    check_max_budget(max_budget, cost)
    check_early_stopping(early_stopping, evaluation)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    if batch_size % mesh.size:
        nearest = (batch_size // mesh.size + 1) * mesh.size
        raise ValueError(
            "`batch_size` must be divisible by the number of devices, "
            f"{mesh.size}; got {batch_size}. Use {nearest}."
        )
    check_memory_options(remat, images_at_once, batch_size)
    if optimizer is None:
        rate = learning_rate if callable(learning_rate) else float(learning_rate)
        optimizer = adamw(
            rate,
            weight_decay,
            max_gradient_norm,
            has_learned_inputs=pipeline.learned is not None,
        )
    shape = (batch_size, *pipeline.latent_shape)
    prompt_features = prepare_reward(pipeline, reward, prompts, shape)
    if evaluation is not None:
        evaluation.check(pipeline)
    if method.needs_reward_gradient():
        size = images_at_once or batch_size
        try:
            check_differentiable(
                pipeline, reward, (size, *pipeline.latent_shape), prompt_features
            )
        except RewardError as error:
            error.result = FinetuneResult(pipeline, [])
            raise
    negative_ids = None
    if guidance_scale != 1:
        negative_ids = negative_input_ids(pipeline, negative_prompts, 1)

    everywhere = NamedSharding(mesh, PartitionSpec())
    trainable, frozen = eqx.partition(pipeline, trainable_filter(pipeline))
    constants = (
        frozen,
        reward,
        (pipeline.tokenize(prompts), prompt_features),
        negative_ids,
        jnp.asarray(guidance_scale, jnp.float32),
        key,
    )
    constants = eqx.filter_shard(constants, everywhere)
    state = (trainable, optimizer.init(eqx.filter(trainable, eqx.is_array)))
    state = eqx.filter_shard(state, everywhere)
    compiled = ft.partial(
        train_step,
        method=method,
        optimizer=optimizer,
        mesh=mesh,
        shape=shape,
        num_inference_steps=num_inference_steps,
        eta=eta,
        lora_schedule=lora_schedule,
        remat=remat,
        images_at_once=images_at_once,
    )

    def take_step(state, step):
        state, metrics = compiled(state, constants, jnp.asarray(step))
        return state, jax.device_get(metrics)

    run = Run(
        whole=lambda trainable: eqx.combine(to_default_device(trainable), pipeline),
        num_train_steps=num_train_steps,
        max_skipped_steps=max_skipped_steps,
        evaluation=evaluation,
        early_stopping=early_stopping,
        cost=cost,
        max_budget=max_budget,
        learning_rate=learning_rate,
        callback=callback,
        show_progress=show_progress,
    )
    return run.train(take_step, state)
