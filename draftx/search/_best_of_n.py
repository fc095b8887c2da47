import time
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._checks import check_whole
from .._custom_types import WholeLike
from .._table import Rows, Table
from ..episodes import count
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import Reward
from ._result import SearchResult
from ._setup import ask, draw


def best_of_n(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    n: WholeLike = 16,
    key: PRNGKeyArray | None = None,
) -> SearchResult:
    """Draws `n` images for each prompt, and keeps the one with the largest reward.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `n`: At least 1. With the same key, the images of a smaller number are among those
        of a larger one.
    - `pipeline`, `prompts`, `sampling`, `key`: As for `draftx.sample`.

    **Returns:**

    The best images. A row of the `history` is a draw. A score that is not a number is
    never the best, unless there is no other.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.3.
    """
    n = check_whole("n", n)
    start = time.perf_counter()
    key = jr.key(0) if key is None else key
    table = Table.of(prompts)
    question = ask(pipeline, reward, table, sampling, key=key, latents=None)
    shape = question.batch.latents.shape
    best: Any = None
    history = []
    for i in range(n):
        latents_key, noise_key = jr.split(jr.fold_in(key, i))
        latents = jr.normal(latents_key, shape, jnp.float32)
        question = eqx.tree_at(
            lambda q: (q.batch.latents, q.batch.key), question, (latents, noise_key)
        )
        images, clean, rewards = draw(question)
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
        len(table),
        guided=question.is_guided,
        forwards=n * sampling.num_inference_steps,
        images=n,
        queries=n,
        seconds=time.perf_counter() - start,
    )
    result = SearchResult(*best, history=np.stack(history), budget=budget)
    check_drawn(pipeline, result.clean_latents, result.images)
    return result
