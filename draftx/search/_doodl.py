import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from .._autodiff import stop_gradient
from .._checks import check_whole
from .._custom_types import Latents, Prompts, Real
from ..finetuning import check_differentiable, count, Reward
from ..pipeline import Pipeline
from ._result import SearchResult
from ._setup import draw, make_task, Task


def doodl(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    num_steps: int = 20,
    learning_rate: Real = 0.05,
    renormalize: bool = True,
    noise_weight: Real = 0.0,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    eta: Real = 0.0,
) -> SearchResult:
    r"""Optimizes the starting noise of every image by the gradient of its reward.

    Backpropagates through the whole chain, one latent kept a step, and takes Adam steps
    on the noise. Gaussian noise of $d$ numbers lies close to a sphere of radius
    $\sqrt d$, where the model expects it; two options keep it there.

    **Arguments:**

    - `reward`: Differentiable.
    - `num_steps`: Of Adam, at least 1.
    - `learning_rate`: Of Adam.
    - `renormalize`: Whether the noise of each image is brought back to the norm
        $\sqrt d$ after every step, as in DOODL.
    - `noise_weight`: How much the log-density of the norm of Gaussian noise,
        $(d - 1) \log \lVert x \rVert - \lVert x \rVert^2 / 2$, is added to the reward,
        as in ReNO, which has 0.01 and does not renormalize.
    - The others are those of `draftx.sample`. With `eta` the noise of the steps is the
        same every time.

    **Returns:**

    For every prompt the best image on the way, which the `history` lists from the
    first to the one after the last step.

    ??? cite

        [DOODL](https://arxiv.org/abs/2303.13703), as used in
        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.3, by checkpoints instead
        of an invertible sampler; [ReNO](https://arxiv.org/abs/2406.04312), section 3.3.
    """
    check_whole("num_steps", num_steps)
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(
            f"`learning_rate` must be finite and positive; got {learning_rate}."
        )
    if not (math.isfinite(noise_weight) and noise_weight >= 0):
        raise ValueError(
            f"`noise_weight` must be finite and not negative; got {noise_weight}."
        )
    start = time.perf_counter()
    task = make_task(
        pipeline,
        reward,
        prompts,
        key=key,
        latents=latents,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
    )
    check_differentiable(pipeline, reward, task.latents.shape, task.features)
    optimizer = optax.adam(learning_rate)
    state = optimizer.init(task.latents)
    best_rewards = jnp.full(len(prompts), -jnp.inf)
    best_latents = task.latents
    history = []
    for _ in range(num_steps):
        following, state, rewards = _ascend(
            task, state, optimizer, float(noise_weight), renormalize
        )
        best_rewards, best_latents = _better(
            best_rewards, best_latents, rewards, task.latents
        )
        history.append(np.asarray(rewards))
        task = eqx.tree_at(lambda t: t.latents, task, following)
    # What the last step led to, and once more the images of those that were better.
    images, clean, rewards = draw(task)
    history.append(np.asarray(rewards))
    draws = 1
    _, best_latents = _better(best_rewards, best_latents, rewards, task.latents)
    if not np.array_equal(best_latents, task.latents):
        task = eqx.tree_at(lambda t: t.latents, task, best_latents)
        images, clean, rewards = draw(task)
        draws = 2
    budget = count(
        len(prompts),
        guided=task.negative_ids is not None,
        forwards=num_inference_steps * (num_steps + draws),
        backwards=num_inference_steps * num_steps,
        images=num_steps + draws,
        queries=num_steps + draws,
        seconds=time.perf_counter() - start,
    )
    return SearchResult(images, rewards, best_latents, clean, np.stack(history), budget)


@eqx.filter_jit
def _ascend(
    task: Task,
    state: Any,
    optimizer: optax.GradientTransformation,
    noise_weight: float,
    renormalize: bool,
) -> tuple[Latents, Any, Float[Array, " batch"]]:
    """The noise after a step, and the rewards before it."""
    task = stop_gradient(task)

    def objective(latents: Latents):
        clean = task.run(latents, truncation_steps=None)
        decode = eqx.filter_checkpoint(task.pipeline.decode)
        rewards = eqx.filter_checkpoint(task.score)(decode(clean, remat="block"))
        regularizer = jnp.sum(noise_log_density(latents)) if noise_weight else 0.0
        return jnp.sum(rewards) + noise_weight * regularizer, rewards

    gradient, rewards = jax.grad(objective, has_aux=True)(task.latents)
    with jax.numpy_dtype_promotion("standard"):
        step: Any = optimizer.update(-gradient, state)
    updates, state = step
    latents = task.latents + updates
    if renormalize:
        norm = jnp.sqrt(jnp.sum(latents**2, axis=(1, 2, 3), keepdims=True))
        latents = latents / norm * math.sqrt(latents[0].size)
    return latents, state, rewards


def noise_log_density(latents: Latents) -> Float[Array, " batch"]:
    r"""$(d - 1) \log \lVert x \rVert - \lVert x \rVert^2 / 2$: the log-density of the
    norm of Gaussian noise, up to a constant."""
    squared = jnp.sum(latents**2, axis=(1, 2, 3))
    return (latents[0].size - 1) / 2 * jnp.log(squared) - squared / 2


def _better(best_rewards, best_latents, rewards, latents):
    better = rewards > best_rewards
    rewards = jnp.where(better, rewards, best_rewards)
    return rewards, jnp.where(better[:, None, None, None], latents, best_latents)
