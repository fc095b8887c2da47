import dataclasses
import time
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_is, check_whole, not_negative
from .._custom_types import Images, Latents, RealLike, WholeLike
from .._table import Rows, Table
from ..diffusion import Prediction, random_steps, State
from ..episodes import count
from ..pipeline import check_drawn, Pipeline, Sampling
from ..rewards import Reward
from ._result import SearchResult
from ._setup import ask, Question


def svdd(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Rows,
    sampling: Sampling = Sampling(eta=1.0),
    *,
    num_candidates: WholeLike = 8,
    temperature: RealLike = 0.0,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
) -> SearchResult:
    r"""Draws every step several times and takes the best: soft value-based decoding.

    Each step draws $M$ candidates for $x_{t-1}$ and scores the image that each would
    become in one jump, $r(\hat x_0(x_{t-1}))$, in place of its value. One of them is
    taken with probabilities $\mathrm{softmax}(r / \alpha)$. Needs no gradient of
    anything. The prediction that the jump needs serves the next step as well.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `num_candidates`: $M$. With 1 the images are those of `draftx.sample`.
    - `temperature`: $\alpha$; 0 takes the candidate with the largest reward.
    - `pipeline`, `prompts`, `sampling`, `key`, `latents`: As for `draftx.sample`. The
        steps must add noise: `eta` above 0, or a sampler that does so by itself.

    **Returns:**

    The images. The `history` lists the scores of the candidates that were taken, step
    after step; the last are those of the images.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), algorithm 1, as SVDD-PM.
    """
    num_candidates = check_whole("num_candidates", num_candidates)
    temperature = not_negative("temperature", temperature)
    check_is("sampling", sampling, Sampling, "draftx.Sampling(20)")
    table, total = Table.of(prompts), sampling.num_inference_steps
    start = time.perf_counter()
    question = ask(pipeline, reward, table, sampling, key=key, latents=latents)
    random = random_steps(question.batch.plan.sampler, total, sampling.eta)
    # Candidates of a step without noise would all be the same.
    last = num_candidates if total - 1 in random else 1
    images, clean, history = _decode(question, num_candidates, last, temperature)
    budget = count(
        len(table),
        guided=question.is_guided,
        forwards=1 + num_candidates * (total - 1),
        queries=num_candidates * (total - 1) + last,
        seconds=time.perf_counter() - start,
    )
    history = np.asarray(history)
    rewards = jnp.asarray(history[-1])
    noise = question.batch.latents
    check_drawn(pipeline, clean, images)
    return SearchResult(images, rewards, noise, clean, history, budget)


@eqx.filter_jit
def _decode(
    question: Question, num_candidates: int, num_last: int, temperature: float
) -> tuple[Images, Latents, Float[Array, "steps batch"]]:
    chain, decode = question.chain(), question.task.pipeline.decode
    total, key = len(chain), question.batch.key
    # The first candidate is what the chain would have drawn.
    others, choice_key = jr.split(jr.fold_in(key, total))
    noise_keys = jnp.stack([key, *jr.split(others, num_candidates - 1)])

    def advance(state: State, prediction: Prediction, index, noise_key) -> State:
        candidate = dataclasses.replace(chain, key=noise_key)
        return candidate.advance(state, prediction, index)

    def choose(rewards: Float[Array, "candidates batch"], index: Int[Array, ""]):
        # What is not a number is not to be taken.
        rewards = jnp.where(jnp.isnan(rewards), -jnp.inf, rewards)
        if temperature == 0:
            return jnp.argmax(rewards, axis=0)
        key = jr.fold_in(choice_key, index)
        logits = (rewards - jnp.max(rewards, axis=0, keepdims=True)) / temperature
        return jr.categorical(key, logits, axis=0)

    def body(before: tuple[State, Prediction], index: Int[Array, ""]):
        def look_ahead(noise_key: PRNGKeyArray):
            following = advance(before[0], before[1], index, noise_key)
            prediction = chain.predict(following, index + 1)
            jumped = chain.jump(following, prediction, index + 1)
            rewards = question.score(decode(jumped.latents))
            return (following, prediction), rewards

        candidates, rewards = lax.map(look_ahead, noise_keys)
        chosen = choose(rewards, index)
        return _take(candidates, chosen), _take(rewards, chosen)

    start = chain.begin(question.batch.latents)
    before = (start, chain.predict(start, jnp.asarray(0)))
    before, history = lax.scan(body, before, jnp.arange(total - 1))
    index = jnp.asarray(total - 1)

    def finish(noise_key: PRNGKeyArray):
        clean = advance(before[0], before[1], index, noise_key).latents
        images = decode(clean)
        return images, clean, question.score(images)

    images, clean, rewards = lax.map(finish, noise_keys[:num_last])
    chosen = choose(rewards, index)
    history = jnp.concatenate([history, _take(rewards, chosen)[None]])
    return _take(images, chosen), _take(clean, chosen), history


def _take(candidates: Any, chosen: Int[Array, " batch"]) -> Any:
    """Of each image the candidate that was chosen, in every array of a tree."""
    return jax.tree.map(lambda x: x[chosen, jnp.arange(len(chosen))], candidates)
