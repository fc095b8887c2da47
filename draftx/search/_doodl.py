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
from .._checks import check_is, check_whole, not_negative, positive
from .._custom_types import Latents, RealLike, WholeLike
from .._table import Rows, Table
from ..episodes import count, image_spec
from ..layers import Remat
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import check_differentiable, Reward
from ._result import SearchResult
from ._setup import ask, draw, Question


def doodl(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    num_steps: WholeLike = 20,
    learning_rate: RealLike = 0.05,
    renormalize: bool = True,
    noise_weight: RealLike = 0.0,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
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
    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `draftx.sample`. The
        noise of the steps, if they add any, is the same every time.

    **Returns:**

    For every prompt the best image on the way, which the `history` lists from the
    first to the one after the last step.

    ??? cite

        [DOODL](https://arxiv.org/abs/2303.13703), as used in
        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.3, by checkpoints instead
        of an invertible sampler; [ReNO](https://arxiv.org/abs/2406.04312), section 3.3.
    """
    num_steps = check_whole("num_steps", num_steps)
    learning_rate = positive("learning_rate", learning_rate)
    noise_weight = not_negative("noise_weight", noise_weight)
    start = time.perf_counter()
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    table, total = Table.of(prompts), sampling.num_inference_steps
    question = ask(pipeline, reward, table, sampling, key=key, latents=latents)
    latents = question.batch.latents
    images = image_spec(pipeline, latents.shape)
    check_differentiable(question.task.reward, images, question.batch.features)
    optimizer = optax.adam(learning_rate)
    state = optimizer.init(latents)
    best_rewards, best_latents = jnp.full(len(table), -jnp.inf), latents
    history = []
    at = lambda latents: eqx.tree_at(lambda q: q.batch.latents, question, latents)
    for _ in range(num_steps):
        following, state, rewards = _ascend(
            at(latents), state, optimizer, noise_weight, renormalize
        )
        best_rewards, best_latents = _better(
            best_rewards, best_latents, rewards, latents
        )
        history.append(np.asarray(rewards))
        latents = following
    # What the last step led to, and once more the images of those that were better.
    images, clean, rewards = draw(at(latents))
    history.append(np.asarray(rewards))
    draws = 1
    _, best_latents = _better(best_rewards, best_latents, rewards, latents)
    if not np.array_equal(best_latents, latents):
        images, clean, rewards = draw(at(best_latents))
        draws = 2
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=total * (num_steps + draws),
        backwards=total * num_steps,
        images=num_steps + draws,
        queries=num_steps + draws,
        seconds=time.perf_counter() - start,
    )
    check_drawn(pipeline, clean, images)
    return SearchResult(images, rewards, best_latents, clean, np.stack(history), budget)


@eqx.filter_jit
def _ascend(
    question: Question,
    state: Any,
    optimizer: optax.GradientTransformation,
    noise_weight: float,
    renormalize: bool,
) -> tuple[Latents, Any, Float[Array, " batch"]]:
    """The noise after a step, and the rewards before it."""
    question = stop_gradient(question)
    start = question.batch.latents

    def objective(latents: Latents):
        clean = question.run(latents, truncation_steps=None)
        decode = eqx.filter_checkpoint(question.task.pipeline.decode)
        images = decode(clean, remat=Remat.BLOCK)
        rewards = eqx.filter_checkpoint(question.score)(images)
        regularizer = jnp.sum(noise_log_density(latents)) if noise_weight else 0.0
        return jnp.sum(rewards) + noise_weight * regularizer, rewards

    gradient, rewards = jax.grad(objective, has_aux=True)(start)
    with jax.numpy_dtype_promotion("standard"):
        step: Any = optimizer.update(-gradient, state)
    updates, state = step
    latents = start + updates
    if renormalize:
        norm = jnp.sqrt(jnp.sum(latents**2, axis=(1, 2, 3), keepdims=True))
        latents = latents / norm * math.sqrt(latents[0].size)
    return latents, state, rewards


def noise_log_density(latents: Latents) -> Float[Array, " batch"]:
    r"""Computes the log-density of the norm of Gaussian noise, up to a constant.

    $$(d - 1) \log \lVert x \rVert - \lVert x \rVert^2 / 2$$
    """
    squared = jnp.sum(latents**2, axis=(1, 2, 3))
    return (latents[0].size - 1) / 2 * jnp.log(squared) - squared / 2


def _better(best_rewards, best_latents, rewards, latents):
    better = rewards > best_rewards
    rewards = jnp.where(better, rewards, best_rewards)
    return rewards, jnp.where(better[:, None, None, None], latents, best_latents)
