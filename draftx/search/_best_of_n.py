import time
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._checks import check_whole
from .._custom_types import Prompts, Real
from ..finetuning import count, Reward
from ..pipeline import Pipeline
from ._result import SearchResult
from ._setup import draw, make_task


def best_of_n(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    n: int = 16,
    key: PRNGKeyArray | None = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    eta: Real = 0.0,
) -> SearchResult:
    """Draws `n` images for each prompt, and keeps the one with the largest reward.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `n`: At least 1. With the same key, the images of a smaller number are among those
        of a larger one.
    - The others are those of `draftx.sample`.

    **Returns:**

    The best images. A row of the `history` is a draw. A score that is not a number is
    never the best, unless there is no other.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.3.
    """
    check_whole("n", n)
    start = time.perf_counter()
    key = jr.key(0) if key is None else key
    task = make_task(
        pipeline,
        reward,
        prompts,
        key=key,
        latents=None,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
    )
    best: Any = None
    history = []
    for i in range(n):
        latents_key, noise_key = jr.split(jr.fold_in(key, i))
        latents = jr.normal(latents_key, task.latents.shape, jnp.float32)
        task = eqx.tree_at(lambda t: (t.latents, t.key), task, (latents, noise_key))
        images, clean, rewards = draw(task)
        drawn = (images, rewards, latents, clean)
        history.append(np.asarray(rewards))
        if best is None:
            best = drawn
            continue
        better = (rewards > best[1]) | jnp.isnan(best[1])
        best = [
            jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(drawn, best, strict=True)
        ]
    budget = count(
        len(prompts),
        guided=task.negative_ids is not None,
        forwards=n * num_inference_steps,
        images=n,
        queries=n,
        seconds=time.perf_counter() - start,
    )
    return SearchResult(*best, history=np.stack(history), budget=budget)
