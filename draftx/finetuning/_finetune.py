import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray
from tqdm import tqdm

from .._custom_types import Prompts, Real
from ..layers import Remat
from ..lora import lora_filter
from ..models import check_prompts
from ..pipeline import check_guidance_scale, negative_input_ids, Pipeline
from ._estimator import AbstractGradientEstimator, Reward
from ._reward_gradient import (
    check_finite,
    check_memory_options,
    check_reward,
    check_trainable,
    prepare_prompts,
    RewardError,
    value_and_grad,
)


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """What `finetune` returns.

    - `pipeline`: The tuned pipeline, its adapter in `lora_down` and `lora_up`.
    - `history`: One dictionary of plain numbers for each step.
    """

    pipeline: Pipeline
    history: list[dict[str, Any]]


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
    remat: Remat = "step",
    images_at_once: int | None = None,
    callback: Callable[[dict[str, Any], Pipeline], None] | None = None,
    show_progress: bool = True,
) -> FinetuneResult:
    r"""Trains the adapter of a pipeline to ascend a reward.

    Every step draws `batch_size` prompts and as much starting noise from `key` and the
    step's number alone, estimates the gradient with `method`, and takes one AdamW step.
    The same key gives the same result. With several devices the batch is split evenly
    over all of them.

    **Arguments:**

    - `pipeline`: With an adapter (`draftx.add_lora`); the rest stays frozen.
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
    - `num_inference_steps`, `guidance_scale`: Of sampling, as for `draftx.sample`.
    - `remat`, `images_at_once`: Of memory, as for `draftx.reward_gradient`. With
        several devices `images_at_once` counts the images of all of them.
    - `callback`: Called after every step with the row of the history and the pipeline
        as it is then: for saving, drawing, or stopping by an exception.
    - `show_progress`: Whether to show a progress bar.

    **Returns:**

    The tuned pipeline and the history: `step`, `reward` (mean), `reward_std`,
    `gradient_norm`, `seconds`, `learning_rate` if it is known, and `prompts` (the
    indices drawn).

    Raises a `ValueError` that names the argument before any work, and a `RewardError`
    at the first step with a reward or gradient that is not finite; its attribute
    `result` holds what had been reached.
    """
    check_prompts(prompts)
    check_trainable(pipeline)
    check_guidance_scale(guidance_scale)
    pipeline.sampler.timesteps(num_inference_steps)  # Raises before any work.
    method.check(num_inference_steps)
    for name, value in (
        ("num_train_steps", num_train_steps),
        ("batch_size", batch_size),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(
                f"`{name}` must be a whole number of at least 1; got {value!r}."
            )
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    if batch_size % mesh.size:
        nearest = (batch_size // mesh.size + 1) * mesh.size
        raise ValueError(
            "`batch_size` must be divisible by the number of devices, "
            f"{mesh.size}; got {batch_size}. Use {nearest}."
        )
    check_memory_options(remat, images_at_once, batch_size)
    if optimizer is None:
        optimizer = _adamw(learning_rate, weight_decay, max_gradient_norm)
    prompt_features = prepare_prompts(reward, prompts)
    shape = (batch_size, *pipeline.latent_shape)
    check_reward(pipeline, reward, shape, prompt_features)
    negative_ids = None
    if guidance_scale != 1:
        negative_ids = negative_input_ids(pipeline, negative_prompts, 1)

    everywhere = NamedSharding(mesh, PartitionSpec())
    trainable, frozen = eqx.partition(pipeline, lora_filter(pipeline))
    constants = (
        frozen,
        (pipeline.tokenize(prompts), prompt_features),
        negative_ids,
        jnp.asarray(guidance_scale, jnp.float32),
        key,
    )
    constants = eqx.filter_shard(constants, everywhere)
    state = (trainable, optimizer.init(eqx.filter(trainable, eqx.is_array)))
    state = eqx.filter_shard(state, everywhere)
    train_step = _make_train_step(
        method,
        reward,
        optimizer,
        mesh,
        shape,
        num_inference_steps=num_inference_steps,
        remat=remat,
        images_at_once=images_at_once,
    )

    history: list[dict[str, Any]] = []
    current = lambda: eqx.combine(_to_default_device(state[0]), pipeline)
    steps = tqdm(range(num_train_steps), desc="fine-tuning", disable=not show_progress)
    start = time.perf_counter()
    for step in steps:
        new_state, metrics = train_step(state, constants, jnp.asarray(step))
        row = _row(step, metrics, time.perf_counter() - start, learning_rate)
        try:
            check_finite(metrics["rewards"])
            if not math.isfinite(row["gradient_norm"]):
                raise RewardError(
                    "`reward` must have a finite gradient; got a norm of "
                    f"{row['gradient_norm']} at step {step} although the rewards "
                    f"{np.asarray(metrics['rewards']).tolist()} are finite. Look for a "
                    "square root or a division at zero."
                )
        except RewardError as error:
            error.result = FinetuneResult(current(), history)
            raise
        state = new_state
        history.append(row)
        steps.set_postfix(reward=f"{row['reward']:.4g}")
        if callback is not None:
            callback(row, current())
    return FinetuneResult(current(), history)


def _make_train_step(method, reward, optimizer, mesh, shape, **options):
    """The jitted step: draw a batch, estimate the gradient, update the adapter."""
    by_batch = NamedSharding(mesh, PartitionSpec("data"))

    @eqx.filter_jit
    def train_step(state, constants, step: Int[Array, ""]):
        trainable, opt_state = state
        frozen, prompts, negative_ids, guidance_scale, key = constants
        prompt_key, latents_key, method_key = jr.split(jr.fold_in(key, step), 3)
        rows = jr.randint(prompt_key, shape[:1], 0, len(prompts[0]))
        drawn = jax.tree.map(lambda x: x[rows], prompts)
        input_ids, features = lax.with_sharding_constraint(drawn, by_batch)
        latents: Float[Array, "batch height width channels"] = jr.normal(
            latents_key, shape, jnp.float32
        )
        latents = lax.with_sharding_constraint(latents, by_batch)
        (_, rewards), gradient = value_and_grad(
            trainable,
            frozen,
            method,
            reward,
            input_ids,
            negative_ids,
            latents,
            guidance_scale,
            method_key,
            features,
            **options,
        )
        metrics = {
            "rewards": rewards,
            "gradient_norm": optax.tree.norm(gradient),
            "prompts": rows,
        }
        descent = jax.tree.map(jnp.negative, gradient)  # optax minimizes.
        # optax raises an integer count to a power, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(descent, opt_state, trainable)
        return (eqx.apply_updates(trainable, updates), opt_state), metrics

    return train_step


def _adamw(learning_rate, weight_decay, max_gradient_norm):
    for name, value in (
        ("learning_rate", learning_rate),
        ("weight_decay", weight_decay),
        ("max_gradient_norm", max_gradient_norm),
    ):
        if value is None or callable(value):
            continue
        least = 0 if name == "weight_decay" else math.ulp(0.0)
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"`{name}` must be finite and positive; got {value}.")
    adamw = optax.adamw(learning_rate, b1=0.9, b2=0.999, weight_decay=weight_decay)
    if max_gradient_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), adamw)


def _row(step, metrics, seconds, learning_rate) -> dict[str, Any]:
    rewards = np.asarray(metrics["rewards"], np.float64)
    rate: Any = learning_rate(step) if callable(learning_rate) else learning_rate
    return {
        "step": step,
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "gradient_norm": float(metrics["gradient_norm"]),
        "learning_rate": float(rate),
        "seconds": round(seconds, 3),
        "prompts": np.asarray(metrics["prompts"]).tolist(),
    }


def _to_default_device(tree):
    """Off the mesh, so that the result mixes with arrays of any device."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)
