import time

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from .._checks import check_whole
from .._custom_types import WholeLike
from .._table import Rows, Table
from ..episodes import count
from ..io.checkpoints import check_checkpoints, Checkpoints
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import Reward
from ._result import SearchResult
from ._setup import ask, draw, facts, no_images
from ._steps import Naming, take_steps


def best_of_n(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(),
    *,
    n: WholeLike = 16,
    key: PRNGKeyArray | None = None,
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> SearchResult:
    """Draws `n` images for each prompt, and keeps the one with the largest reward.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `n`: At least 1. With the same key, the images of a smaller number are among those
        of a larger one.
    - `pipeline`, `prompts`, `sampling`, `key`: As for `draftx.sample`.
    - `checkpoints`: Where the search is saved, and goes on from when it is called
        again, with a larger `n` too; a draw of an image for each prompt is a step.
        `None` is nowhere.
    - `progress`: Whether a bar is shown.

    **Returns:**

    The best images, of those until then if it was `stopped`. A row of the `history` is
    a draw. A score that is not a number is
    never the best, unless there is no other.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix A.3.
    """
    n = check_whole("n", n)
    check_checkpoints(checkpoints)
    start = time.perf_counter()
    key = jr.key(0) if key is None else key
    table = Table.of(prompts)
    question = ask(pipeline, reward, table, sampling, key=key, latents=None)
    shape = question.batch.latents.shape

    def take_step(best: list[Array], i: int):
        latents_key, noise_key = jr.split(jr.fold_in(key, i))
        latents = jr.normal(latents_key, shape, jnp.float32)
        images, clean, rewards = draw(
            eqx.tree_at(
                lambda q: (q.batch.latents, q.batch.key), question, (latents, noise_key)
            )
        )
        drawn = [images, rewards, latents, clean]
        better = (rewards > best[1]) | jnp.isnan(best[1])
        best = [
            jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(drawn, best, strict=True)
        ]
        return best, rewards

    images, clean, rewards = no_images(pipeline, question)
    taken = take_steps(
        take_step,
        [images, rewards, question.batch.latents, clean],
        n,
        Naming("best_of_n", "n"),
        checkpoints=checkpoints,
        facts=facts("best_of_n", pipeline, question, table, dict(sampling=sampling)),
        progress=progress,
        start=start,
    )
    done = len(taken.history)
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=done * sampling.num_inference_steps,
        images=done,
        queries=done,
        seconds=taken.seconds + time.perf_counter() - start,
    )
    history = np.stack(taken.history)
    result = SearchResult(
        *taken.state, history=history, budget=budget, stopped=taken.stopped
    )
    check_drawn(pipeline, result.clean_latents, result.images)
    return result
