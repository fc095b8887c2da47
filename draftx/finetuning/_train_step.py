"""One step of training, compiled; and the optimizer it takes unless told another."""

import functools as ft
import math
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from .._custom_types import Real
from ..rewards import with_key
from ._estimator import AbstractGradientEstimator
from ._reward_gradient import value_and_grad
from ._trainable import scale_guidance_rate, without_guidance_scales


@eqx.filter_jit
def train_step(
    state: Any,
    constants: tuple[Any, ...],
    step: Int[Array, ""],
    *,
    method: AbstractGradientEstimator,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shape: tuple[int, ...],
    **options: Any,
) -> tuple[Any, dict[str, Array]]:
    """Draws a batch, estimates the gradient, updates the adapter.

    If a reward or the gradient is not finite, adapter and optimizer stay as they were.
    Runs that differ only in arrays share one program.

    **Arguments:**

    - `state`: The adapter, and the state of the optimizer.
    - `constants`: The rest of the pipeline, the reward, the token ids and what the
        reward prepared of all prompts, the negative token ids, $w$, and the key.
    - `shape`: Of the latents of a batch, which is split over `mesh`.
    - `options`: Of `value_and_grad`.
    """
    by_batch = NamedSharding(mesh, PartitionSpec("data"))
    trainable, opt_state = state
    frozen, reward, prompts, negative_ids, guidance_scale, key = constants
    keys = jr.split(jr.fold_in(key, step), 4)
    prompt_key, latents_key, method_key, reward_key = keys
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
        with_key(reward, reward_key),
        input_ids,
        negative_ids,
        latents,
        guidance_scale,
        method_key,
        features,
        mesh=mesh,
        **options,
    )
    norm = optax.tree.norm(gradient)
    is_finite = jnp.isfinite(norm) & jnp.all(jnp.isfinite(rewards))
    metrics = {
        "rewards": rewards,
        "gradient_norm": norm,
        "is_finite": is_finite,
        "prompts": rows,
    }
    descent = jax.tree.map(jnp.negative, gradient)  # optax minimizes.
    # optax raises an integer count to a power, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, new_opt_state = optimizer.update(descent, opt_state, trainable)
    new_state = eqx.apply_updates(trainable, updates), new_opt_state
    keep = lambda new, old: jnp.where(is_finite, new, old)
    return jax.tree.map(keep, new_state, state), metrics


@ft.lru_cache
def adamw(
    learning_rate: Real | optax.Schedule,
    weight_decay: Real,
    max_gradient_norm: Real | None,
    *,
    has_learned_inputs: bool = False,
) -> optax.GradientTransformation:
    """AdamW with the paper's other parameters, after clipping if that is wanted.

    The same for the same arguments, so that `train_step` is not compiled again.
    """
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
    mask = without_guidance_scales if has_learned_inputs else None
    adamw = optax.adamw(
        learning_rate, b1=0.9, b2=0.999, weight_decay=weight_decay, mask=mask
    )
    if has_learned_inputs:
        adamw = optax.chain(adamw, scale_guidance_rate())
    if max_gradient_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), adamw)
