import functools as ft
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
from .._compilation import compiled
from .._custom_types import Latents, RealLike, WholeLike
from .._table import Rows, Table
from ..episodes import count, image_spec
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..layers import Remat
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import check_differentiable, Reward
from ._result import SearchResult
from ._setup import ask, draw, facts, Question
from ._steps import Naming, take_steps


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
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
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
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again, with more steps too; `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    For every prompt the best image on the way, until then if the search was `stopped`.
    The `history` lists them from the first to the one after the last step.

    ??? cite

        [DOODL](https://arxiv.org/abs/2303.13703), as used in
        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.3, by checkpoints instead
        of an invertible sampler; [ReNO](https://arxiv.org/abs/2406.04312), section 3.3.
    """
    num_steps = check_whole("num_steps", num_steps)
    learning_rate = positive("learning_rate", learning_rate)
    noise_weight = not_negative("noise_weight", noise_weight)
    check_is("renormalize", renormalize, bool, "True")
    check_checkpoints(checkpoints)
    start = time.perf_counter()
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    table, total = Table.of(prompts), sampling.num_inference_steps
    question = ask(pipeline, reward, table, sampling, key=key, latents=latents)
    latents = question.batch.latents
    images = image_spec(pipeline, latents.shape)
    check_differentiable(question.task.reward, images, question.batch.features)
    optimizer = _adam(learning_rate)
    at = lambda latents: eqx.tree_at(lambda q: q.batch.latents, question, latents)

    def take_step(state: _Ascent, step: int):
        del step
        latents, opt_state, rewards = _ascend(
            at(state.latents), state.opt_state, optimizer, noise_weight, renormalize
        )
        return _Ascent(latents, opt_state, *state.better(rewards)), rewards

    opt_state = optimizer.init(latents)
    lowest = jnp.full(len(table), -jnp.inf, jnp.float32)
    options = dict(
        sampling=sampling,
        learning_rate=learning_rate,
        renormalize=renormalize,
        noise_weight=noise_weight,
    )
    taken = take_steps(
        take_step,
        _Ascent(latents, opt_state, lowest, latents),
        num_steps,
        Naming("doodl", "num_steps"),
        checkpoints=checkpoints,
        facts=facts("doodl", pipeline, question, table, options),
        progress=progress,
        start=start,
    )
    # What the last step led to, and once more the images of those that were better.
    state, done = taken.state, len(taken.history)
    images, clean, rewards = draw(at(state.latents))
    history = np.stack([*taken.history, np.asarray(rewards)])
    draws = 1
    _, best_latents = state.better(rewards)
    if not np.array_equal(best_latents, state.latents):
        images, clean, rewards = draw(at(best_latents))
        draws = 2
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=total * (done + draws),
        backwards=total * done,
        images=done + draws,
        queries=done + draws,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    check_drawn(pipeline, clean, images)
    return SearchResult(
        images, rewards, best_latents, clean, history, budget, taken.stopped
    )


# The same object compiles no other program.
_adam = ft.cache(optax.adam)


class _Ascent(eqx.Module):
    """Holds where the noise is, and where it was best until now."""

    latents: Latents
    opt_state: Any
    best_rewards: Float[Array, " batch"]
    best_latents: Latents

    def better(
        self, rewards: Float[Array, " batch"]
    ) -> tuple[Float[Array, " batch"], Latents]:
        """Finds what is best, now that the rewards of the latents are known."""
        better = rewards > self.best_rewards
        best = jnp.where(better[:, None, None, None], self.latents, self.best_latents)
        return jnp.where(better, rewards, self.best_rewards), best


@compiled()
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
