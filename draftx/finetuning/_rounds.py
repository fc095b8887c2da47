"""Training in rounds: draw samples, score them, learn from them by several updates."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from .._checks import check_whole
from .._custom_types import Prompts, Real
from .._table import check_prompts
from ..layers import Remat
from ..lora import lora_filter
from ..pipeline import check_guidance_scale, negative_input_ids, Pipeline
from ._budget import Budget
from ._checks import check_memory_options, check_trainable, prepare_reward
from ._early_stopping import check_early_stopping, EarlyStopping
from ._estimator import Reward
from ._evaluation import Evaluation
from ._probe import check_differentiable
from ._result import FinetuneResult
from ._round_method import AbstractRoundMethod
from ._round_programs import collect, Drawing, improve, Learning
from ._run import check_max_budget, Run
from ._train_step import adamw


# Rounds in a row without a finite reward after which training gives up.
MAX_SKIPPED_ROUNDS = 10


def finetune_in_rounds(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    method: AbstractRoundMethod,
    key: PRNGKeyArray,
    num_train_steps: int,
    batch_size: int,
    num_inner_epochs: int = 1,
    minibatch_size: int | None = None,
    steps_per_update: int | None = None,
    step_fraction: Real = 1.0,
    learning_rate: Real | optax.Schedule = 3e-4,
    weight_decay: Real = 1e-4,
    max_gradient_norm: Real | None = 1.0,
    optimizer: optax.GradientTransformation | None = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    remat: Remat = "step",
    images_at_once: int | None = None,
    evaluation: Evaluation | None = None,
    early_stopping: EarlyStopping | None = None,
    max_budget: Budget | None = None,
    callback: Callable[[dict[str, Any], Pipeline], None] | None = None,
    show_progress: bool = True,
) -> FinetuneResult:
    r"""Trains the adapter of a pipeline on its own samples, several updates for each.

    `draftx.finetune` for methods that learn from what was drawn: every round draws
    `batch_size` images, scores them, and takes one optimizer step for every
    `minibatch_size` of them and every `steps_per_update` of their sampling steps, both
    in random order. Runs on one device.

    **Arguments:**

    - `pipeline`, `prompts`, `key`, `negative_prompts`, `num_inference_steps`,
        `guidance_scale`, `remat`, `images_at_once`, `evaluation`, `early_stopping`,
        `max_budget`, `callback`, `show_progress`: As for `draftx.finetune`, a round for
        a step. The images of an update must fit at one step, no matter how many steps
        it has.
    - `reward`: Images to scores. Need not be differentiable, unless the method says so:
        `draftx.rewards.HostReward` makes one of any NumPy function.
    - `method`: `draftx.DDPO()`, `draftx.RewardWeighted()` or `draftx.DPG()`.
    - `num_train_steps`: The rounds, at least 1.
    - `batch_size`: The images of a round.
    - `num_inner_epochs`: How often all of them are learned from.
    - `minibatch_size`: The images of one update; divides the batch. `None`: all.
    - `steps_per_update`: The sampling steps of one update, the same for all of its
        images; divides those that are trained. `None`: all.
    - `step_fraction`: The part of the steps that each epoch trains, drawn at random.
    - `learning_rate`, `weight_decay`, `max_gradient_norm`, `optimizer`: As for
        `draftx.finetune`, with the defaults of DDPO's authors. A schedule is given the
        number of updates, of which a round has several.

    **Returns:**

    The tuned pipeline, the evaluations, whether and why it ended early, and the
    history, one row a round: what `draftx.finetune` has, its
    `gradient_norm` the mean of the updates, the figures of the method, the `Budget` so
    far by its names, and `skipped`, the rounds so far that were not learned from
    because a reward was not finite. After ten of those in a row a `RewardError` is
    raised, its `result` what had been reached. An update whose gradient is not finite
    is left out; `skipped_updates` counts those of the round.

    Raises a `ValueError` that names the argument before any work.
    """
    check_prompts(prompts)
    check_trainable(pipeline)
    check_guidance_scale(guidance_scale)
    pipeline.sampler.timesteps(num_inference_steps)  # Raises before any work.
    trained = method.trained_steps(pipeline.sampler, num_inference_steps)
    check_whole("num_train_steps", num_train_steps)
    check_whole("batch_size", batch_size)
    check_whole("num_inner_epochs", num_inner_epochs)
    if minibatch_size is None:
        minibatch_size = batch_size
    check_whole("minibatch_size", minibatch_size, divides=batch_size)
    if not 0 < step_fraction <= 1:
        raise ValueError(f"`step_fraction` must lie in (0, 1]; got {step_fraction}.")
    num_trained = max(1, round(step_fraction * len(trained)))
    if steps_per_update is None:
        steps_per_update = num_trained
    check_whole("steps_per_update", steps_per_update, divides=num_trained)
    check_memory_options(remat, images_at_once, batch_size)
    guided = guidance_scale != 1
    cost = method.budget(
        num_inference_steps,
        batch_size,
        num_trained=num_inner_epochs * num_trained,
        guided=guided,
    )
    check_max_budget(max_budget, cost)
    check_early_stopping(early_stopping, evaluation)
    if optimizer is None:
        optimizer = adamw(learning_rate, weight_decay, max_gradient_norm)
    shape = (batch_size, *pipeline.latent_shape)
    prompt_features = prepare_reward(pipeline, reward, prompts, shape)
    if evaluation is not None:
        evaluation.check(pipeline)
    if method.needs_reward_gradient():
        size = images_at_once or batch_size
        check_differentiable(pipeline, reward, (size, *shape[1:]), prompt_features)
    negative_ids = None
    if guided:
        negative_ids = negative_input_ids(pipeline, negative_prompts, 1)

    drawing = Drawing(shape, num_inference_steps, method.eta, remat, images_at_once)
    learning = Learning(
        batch_size, num_inner_epochs, minibatch_size, steps_per_update, num_trained
    )
    key, start_key = jr.split(key)
    trainable, frozen = eqx.partition(pipeline, lora_filter(pipeline))
    learned, constant = method.start(reward, start_key)
    opt_state = optimizer.init(eqx.filter(trainable, eqx.is_array))
    state = (trainable, opt_state, learned)
    tokens = pipeline.tokenize(prompts)
    scale = jnp.asarray(guidance_scale, jnp.float32)
    inputs = (tokens, prompt_features, negative_ids, scale, reward)
    weigh = method.weigh()
    run = Run(
        whole=lambda trainable: eqx.combine(trainable, frozen),
        num_train_steps=num_train_steps,
        max_skipped_steps=MAX_SKIPPED_ROUNDS,
        evaluation=evaluation,
        early_stopping=early_stopping,
        cost=cost,
        max_budget=max_budget,
        learning_rate=learning_rate,
        updates_per_step=learning.num_updates,
        callback=callback,
        show_progress=show_progress,
    )

    def take_step(state, step):
        round_key = jr.fold_in(key, step)
        samples, rows = collect(state[0], frozen, inputs, round_key, trained, drawing)
        rows, rewards = np.asarray(rows), np.asarray(samples.rewards, np.float64)
        figures: dict[str, Any] = {}
        fine = bool(np.all(np.isfinite(rewards)))
        if fine:
            weights = jnp.asarray(weigh(rows, rewards), jnp.float32)
            samples = eqx.tree_at(lambda s: s.weights, samples, weights)
            state, figures = improve(
                method, optimizer, state, frozen, constant, samples, round_key, learning
            )
        metrics = {"rewards": rewards, "prompts": rows, "is_finite": fine, **figures}
        return state, jax.device_get(metrics)

    return run.train(take_step, state)
