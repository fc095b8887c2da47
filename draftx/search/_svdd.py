import math
import time
from typing import Any

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import check_whole
from .._custom_types import Images, Latents, Prompts, Real
from ..diffusion import step_noise
from ..finetuning import check_density, count, random_steps, Reward
from ..pipeline import Pipeline
from ._result import SearchResult
from ._setup import make_task, Task


def svdd(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    num_candidates: int = 8,
    temperature: Real = 0.0,
    eta: Real = 1.0,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
) -> SearchResult:
    r"""Soft value-based decoding: every step is drawn several times, the best is taken.

    Each step draws $M$ candidates for $x_{t-1}$ and scores the picture that each would
    become in one jump, $r(\hat x_0(x_{t-1}))$, in place of its value. One of them is
    taken with probabilities $\mathrm{softmax}(r / \alpha)$. Needs no gradient of
    anything. The prediction that the jump needs serves the next step as well.

    **Arguments:**

    - `reward`: Need not be differentiable.
    - `num_candidates`: $M$. With 1 the images are those of `draftx.sample`.
    - `temperature`: $\alpha$; 0 takes the candidate with the largest reward.
    - `eta`: The noise of the chain, above 0 and at most 1.
    - The others are those of `draftx.sample`.

    **Returns:**

    The images. The `history` lists the scores of the candidates that were taken, step
    after step; the last are those of the images.

    ??? cite

        [SVDD](https://arxiv.org/abs/2408.08252), algorithm 1, as SVDD-PM.
    """
    check_whole("num_candidates", num_candidates)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(
            f"`temperature` must be finite and not negative; got {temperature}."
        )
    check_density(eta)
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
    random = random_steps(pipeline.sampler, num_inference_steps, eta)
    # Candidates of a step without noise would all be the same.
    ends_with_noise = num_inference_steps - 1 in random
    last = num_candidates if ends_with_noise else 1
    images, clean, history = _decode(task, num_candidates, last, float(temperature))
    budget = count(
        len(prompts),
        guided=task.negative_ids is not None,
        forwards=1 + num_candidates * (num_inference_steps - 1),
        queries=num_candidates * (num_inference_steps - 1) + last,
        seconds=time.perf_counter() - start,
    )
    history = np.asarray(history)
    rewards = jnp.asarray(history[-1])
    return SearchResult(images, rewards, task.latents, clean, history, budget)


@eqx.filter_jit
def _decode(
    task: Task, num_candidates: int, num_last: int, temperature: float
) -> tuple[Images, Latents, Float[Array, "steps batch"]]:
    sampler = task.pipeline.sampler
    steps, denoiser = task.denoiser()
    total = len(steps)
    # The first candidate is what the chain would have drawn.
    others, choice_key = jr.split(jr.fold_in(task.key, total))
    noise_keys = jnp.stack([task.key, *jr.split(others, num_candidates - 1)])

    def candidate(latents: Latents, prediction: Latents, index, noise_key) -> Latents:
        noise = step_noise(noise_key, index, latents)
        return sampler.step(latents, prediction, steps[index], noise)

    def choose(rewards: Float[Array, "candidates batch"], index: Int[Array, ""]):
        # What is not a number is not to be taken.
        rewards = jnp.where(jnp.isnan(rewards), -jnp.inf, rewards)
        if temperature == 0:
            return jnp.argmax(rewards, axis=0)
        key = jr.fold_in(choice_key, index)
        logits = (rewards - jnp.max(rewards, axis=0, keepdims=True)) / temperature
        return jr.categorical(key, logits, axis=0)

    def body(state: tuple[Latents, Latents], index: Int[Array, ""]):
        latents, prediction = state

        def look_ahead(noise_key: PRNGKeyArray):
            following = candidate(latents, prediction, index, noise_key)
            new_prediction = denoiser(following, index + 1)
            pred_x0, _ = sampler.predict(following, new_prediction, steps[index + 1])
            rewards = task.score(task.pipeline.decode(pred_x0))
            return following, new_prediction, rewards

        followings, predictions, rewards = lax.map(look_ahead, noise_keys)
        chosen = choose(rewards, index)
        following, prediction = _take(followings, chosen), _take(predictions, chosen)
        return (following, prediction), _take(rewards, chosen)

    first = denoiser(task.latents, jnp.asarray(0))
    state = (task.latents, first)
    (latents, prediction), history = lax.scan(body, state, jnp.arange(total - 1))
    index = jnp.asarray(total - 1)

    def finish(noise_key: PRNGKeyArray):
        clean = candidate(latents, prediction, index, noise_key)
        images = task.pipeline.decode(clean)
        return images, clean, task.score(images)

    images, clean, rewards = lax.map(finish, noise_keys[:num_last])
    chosen = choose(rewards, index)
    history = jnp.concatenate([history, _take(rewards, chosen)[None]])
    return _take(images, chosen), _take(clean, chosen), history


def _take(candidates: Array, chosen: Int[Array, " batch"]) -> Array:
    """Of each image the candidate that was chosen."""
    return candidates[chosen, jnp.arange(len(chosen))]
