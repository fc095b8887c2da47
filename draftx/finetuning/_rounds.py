"""Training in rounds: draw samples, score them, learn from them by several updates."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray
from tqdm import tqdm

from .._custom_types import Prompts, Real
from ..layers import Remat
from ..lora import lora_filter
from ..models import check_prompts
from ..pipeline import check_guidance_scale, negative_input_ids, Pipeline
from ..rewards import probe_host_rewards
from ._budget import Budget
from ._checks import (
    check_finite,
    check_memory_options,
    check_reward,
    check_trainable,
    decoded_spec,
    prepare_prompts,
    RewardError,
)
from ._estimator import Episode, Reward
from ._probe import check_differentiable
from ._result import FinetuneResult
from ._round_method import AbstractRoundMethod, Samples
from ._score_function import score_frozen
from ._train_step import adamw
from ._transitions import record_chain


# Rounds in a row without a finite reward after which training gives up.
MAX_SKIPPED_ROUNDS = 10


class _Drawing(NamedTuple):
    """What the program that draws and scores samples is compiled for."""

    shape: tuple[int, int, int, int]
    num_inference_steps: int
    eta: Real
    remat: Remat
    images_at_once: int | None


class _Learning(NamedTuple):
    """What the program of the updates is compiled for."""

    batch_size: int
    num_inner_epochs: int
    minibatch_size: int
    steps_per_update: int
    num_trained: int


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
        `guidance_scale`, `remat`, `images_at_once`, `callback`, `show_progress`: As for
        `draftx.finetune`. The images of an update must fit at one step, no matter how
        many steps it has.
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
        `draftx.finetune`, with the defaults of DDPO's authors.

    **Returns:**

    The tuned pipeline and the history, one row a round: what `draftx.finetune` has, its
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
    method.check(num_inference_steps)
    pipeline.sampler.timesteps(num_inference_steps)  # Raises before any work.
    trained = method.trained_steps(pipeline.sampler, num_inference_steps)
    _check_whole("num_train_steps", num_train_steps)
    _check_whole("batch_size", batch_size)
    _check_whole("num_inner_epochs", num_inner_epochs)
    if minibatch_size is None:
        minibatch_size = batch_size
    _check_whole("minibatch_size", minibatch_size, divides=batch_size)
    if not 0 < step_fraction <= 1:
        raise ValueError(f"`step_fraction` must lie in (0, 1]; got {step_fraction}.")
    num_trained = max(1, round(step_fraction * len(trained)))
    if steps_per_update is None:
        steps_per_update = num_trained
    _check_whole("steps_per_update", steps_per_update, divides=num_trained)
    check_memory_options(remat, images_at_once, batch_size)
    if optimizer is None:
        optimizer = adamw(learning_rate, weight_decay, max_gradient_norm)
    prompt_features = prepare_prompts(reward, prompts)
    shape = (batch_size, *pipeline.latent_shape)
    check_reward(pipeline, reward, shape, prompt_features)
    _probe(pipeline, reward, prompts, shape)
    if method.needs_reward_gradient():
        size = images_at_once or batch_size
        check_differentiable(pipeline, reward, (size, *shape[1:]), prompt_features)
    negative_ids = None
    if guidance_scale != 1:
        negative_ids = negative_input_ids(pipeline, negative_prompts, 1)

    drawing = _Drawing(shape, num_inference_steps, method.eta, remat, images_at_once)
    learning = _Learning(
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
    per_round = method.budget(
        num_inference_steps,
        batch_size,
        num_trained=num_inner_epochs * num_trained,
        guided=negative_ids is not None,
    )

    history: list[dict[str, Any]] = []
    spent = Budget()
    skipped = in_a_row = 0
    steps = tqdm(range(num_train_steps), desc="fine-tuning", disable=not show_progress)
    start = time.perf_counter()
    for step in steps:
        round_key = jr.fold_in(key, step)
        samples, rows = _collect(state[0], frozen, inputs, round_key, trained, drawing)
        rows, rewards = np.asarray(rows), np.asarray(samples.rewards, np.float64)
        figures: dict[str, Any] = {}
        fine = bool(np.all(np.isfinite(rewards)))
        if fine:
            in_a_row = 0
            weights = jnp.asarray(weigh(rows, rewards), jnp.float32)
            samples = eqx.tree_at(lambda s: s.weights, samples, weights)
            state, figures = _improve(
                method, optimizer, state, frozen, constant, samples, round_key, learning
            )
        else:
            skipped, in_a_row = skipped + 1, in_a_row + 1
        spent = spent + per_round
        rate: Any = learning_rate(step) if callable(learning_rate) else learning_rate
        seconds = round(time.perf_counter() - start, 3)
        history.append(
            {
                "step": step,
                "reward": float(rewards.mean()),
                "reward_std": float(rewards.std()) if fine else math.nan,
                **{name: float(value) for name, value in figures.items()},
                "learning_rate": float(rate),
                "prompts": rows.tolist(),
                "skipped": skipped,
                **dataclasses.replace(spent, seconds=seconds).as_dict(),
            }
        )
        if in_a_row >= MAX_SKIPPED_ROUNDS:
            try:
                check_finite(samples.rewards)
            except RewardError as error:
                reached = eqx.combine(state[0], frozen)
                error.result = FinetuneResult(reached, history)
                raise
        steps.set_postfix(reward=f"{rewards.mean():.4g}")
        if callback is not None:
            callback(history[-1], eqx.combine(state[0], frozen))
    return FinetuneResult(eqx.combine(state[0], frozen), history)


@eqx.filter_jit
def _collect(trainable, frozen, inputs, key, trained, options: _Drawing):
    """Draws prompts and noise, runs the chain, scores what comes out."""
    pipeline = eqx.combine(trainable, frozen)
    tokens, prompt_features, negative_ids, scale, reward = inputs
    prompt_key, latents_key, noise_key = jr.split(jr.fold_in(key, 0), 3)
    rows = jr.randint(prompt_key, options.shape[:1], 0, len(tokens))
    input_ids, features = jax.tree.map(lambda x: x[rows], (tokens, prompt_features))
    latents = jr.normal(latents_key, options.shape, jnp.float32)
    steps = pipeline.sampler.steps(options.num_inference_steps, eta=options.eta)
    denoiser = pipeline.denoiser(steps, input_ids, negative_ids, scale)
    visited, predictions = record_chain(
        pipeline.sampler,
        denoiser,
        steps,
        latents,
        noise_key if options.eta > 0 else None,
    )
    episode = Episode(
        sampler=pipeline.sampler,
        denoiser=denoiser,
        decoder=pipeline.decode,
        steps=steps,
        latents=latents,
        reward=reward,
        prompts=features,
        remat="none",
        images_at_once=options.images_at_once,
    )
    rewards = score_frozen(episode, visited[-1])
    samples = Samples(
        input_ids=input_ids,
        negative_ids=negative_ids,
        guidance_scale=scale,
        prompts=features,
        steps=steps,
        visited=visited,
        predictions=predictions,
        rewards=rewards,
        weights=jnp.zeros_like(rewards),
        times=jnp.asarray(trained),
        remat=options.remat,
    )
    return samples, rows


@eqx.filter_jit
def _improve(
    method, optimizer, state, frozen, constant, samples, key, options: _Learning
):
    """All the updates of a round, as one program."""
    plan_key, update_key = jr.split(jr.fold_in(key, 1))
    rows, times = _plan(samples, plan_key, options)

    def update(state, inputs):
        trainable, opt_state, learned = state
        rows, times, key = inputs
        part = samples.select(rows, times)
        learned, figures = method.learn(
            learned, constant, eqx.combine(trainable, frozen), part
        )

        def objective(trainable):
            pipeline = eqx.combine(trainable, frozen)
            return method.objective(pipeline, learned, constant, part, key)

        gradient_of = eqx.filter_value_and_grad(objective, has_aux=True)
        (_, more), gradient = gradient_of(trainable)
        norm = optax.tree.norm(gradient)
        fine = jnp.isfinite(norm)
        descent = jax.tree.map(jnp.negative, gradient)  # optax minimizes.
        # optax raises an integer count to a power, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, new_opt_state = optimizer.update(descent, opt_state, trainable)
        new = (eqx.apply_updates(trainable, updates), new_opt_state)
        keep = lambda new, old: jnp.where(fine, new, old)
        trainable, opt_state = jax.tree.map(keep, new, (trainable, opt_state))
        figures = {
            "gradient_norm": jnp.where(fine, norm, 0),
            "skipped_updates": 1 - fine.astype(jnp.float32),
            **figures,
            **more,
        }
        return (trainable, opt_state, learned), figures

    keys = jr.split(update_key, len(rows))
    state, figures = lax.scan(update, state, (rows, times, keys))
    skipped = jnp.sum(figures.pop("skipped_updates"))
    return state, {**jax.tree.map(jnp.mean, figures), "skipped_updates": skipped}


def _plan(
    samples: Samples, key: PRNGKeyArray, options: _Learning
) -> tuple[Int[Array, "updates rows"], Int[Array, "updates times"]]:
    """The images and the steps of every update: each image at each step once an epoch,
    both in random order."""
    size, length = options.minibatch_size, options.steps_per_update

    def epoch(key):
        row_key, time_key = jr.split(key)
        rows = jr.permutation(row_key, options.batch_size).reshape(-1, 1, size)
        times = jr.permutation(time_key, samples.times)[: options.num_trained]
        times = times.reshape(1, -1, length)
        count = (rows.shape[0], times.shape[1])
        return (
            jnp.broadcast_to(rows, (*count, size)).reshape(-1, size),
            jnp.broadcast_to(times, (*count, length)).reshape(-1, length),
        )

    epochs = [epoch(key) for key in jr.split(key, options.num_inner_epochs)]
    rows, times = zip(*epochs, strict=True)
    return jnp.concatenate(rows), jnp.concatenate(times)


def _probe(pipeline: Pipeline, reward: Reward, prompts: Prompts, shape) -> None:
    """Calls what runs on the host once, with a picture of noise for each image."""
    images = decoded_spec(pipeline, shape)
    noise = np.random.default_rng(0).uniform(size=images.shape)
    words = [prompts[i % len(prompts)] for i in range(shape[0])]
    probe_host_rewards(reward, noise.astype(np.float32), words)


def _check_whole(name: str, value: Any, *, divides: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if whole and (divides is None or divides % value == 0):
        return
    of = "" if divides is None else f" that divides {divides}"
    raise ValueError(
        f"`{name}` must be a whole number of at least 1{of}; got {value!r}."
    )
