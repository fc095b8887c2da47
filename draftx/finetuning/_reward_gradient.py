from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import InputIds, Latents, NegativeInputIds, Prompts, Real
from ..layers import check_remat, Remat
from ..lora import has_lora, lora_filter
from ..pipeline import Pipeline, prepare
from ..rewards import AbstractReward
from ._estimator import AbstractGradientEstimator, call_reward, Episode, Reward


class RewardError(ValueError):
    """A reward gave something other than one finite score for each image.

    Raised by `finetune`, its `result` is what had been reached before.
    """

    result: Any = None


def reward_gradient(
    pipeline: Pipeline,
    reward: Reward,
    prompts: Prompts,
    *,
    method: AbstractGradientEstimator,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    remat: Remat = "step",
    images_at_once: int | None = None,
) -> tuple[Float[Array, " batch"], Pipeline]:
    """The gradient of the mean reward with respect to the adapter.

    **Arguments:**

    - `pipeline`: With an adapter (`draftx.add_lora`). Everything else is frozen.
    - `reward`: Images `[batch, height, width, 3]` in $[0, 1]$ to scores `[batch]`; a
        function, or a `draftx.rewards.AbstractReward`, which may look at the prompts.
    - `prompts`: One for each image.
    - `method`: `draftx.DRaFT(...)`, `draftx.DRaFTLV(...)` or another estimator.
    - `key`: Draws the starting noise and what noise the method needs. `None` is
        `jax.random.key(0)`.
    - `latents`, `negative_prompts`, `num_inference_steps`, `guidance_scale`: As for
        `draftx.sample`.
    - `remat`: What the backward pass computes again instead of keeping it. `"none"`:
        nothing, the fastest while it fits. `"ff"`: the feed-forward layers. `"block"`:
        the inside of every residual block and transformer. `"step"`: whole sampling
        steps, so that one latent is kept a step. `"nested"`: steps, and while that is
        done their blocks, the least memory. The decoder and the reward are computed
        again block by block with the last three.
    - `images_at_once`: Decodes and rewards so many images at a time, to save memory;
        must divide the batch, and the reward must look at every image on its own.
        `None` is all at once.

    **Returns:**

    The rewards of the images, and a pipeline that holds gradients at the adapter's
    arrays and `None` elsewhere; `draftx.lora_state_dict` names them. Add a multiple of
    the gradient to ascend.
    """
    check_trainable(pipeline)
    key = jr.key(0) if key is None else key
    latents_key, method_key = jr.split(key)
    input_ids, negative_ids, latents = prepare(
        pipeline,
        prompts,
        key=latents_key,
        latents=latents,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    method.check(num_inference_steps)
    check_memory_options(remat, images_at_once, len(latents))
    prompt_features = prepare_prompts(reward, prompts)
    check_reward(pipeline, reward, latents.shape, prompt_features)
    trainable, frozen = eqx.partition(pipeline, lora_filter(pipeline))
    (_, rewards), gradient = _value_and_grad(
        trainable,
        frozen,
        method,
        reward,
        input_ids,
        negative_ids,
        latents,
        jnp.asarray(guidance_scale, jnp.float32),
        method_key,
        prompt_features,
        num_inference_steps=num_inference_steps,
        remat=remat,
        images_at_once=images_at_once,
    )
    check_finite(rewards)
    return rewards, gradient


def objective(
    trainable: Pipeline,
    frozen: Pipeline,
    method: AbstractGradientEstimator,
    reward: Reward,
    input_ids: InputIds,
    negative_ids: NegativeInputIds | None,
    latents: Latents,
    guidance_scale: Float[Array, ""],
    key: PRNGKeyArray,
    prompt_features: Any = None,
    *,
    num_inference_steps: int,
    remat: Remat = "step",
    images_at_once: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
    """The estimator's objective as a function of the adapter, and the rewards."""
    pipeline = eqx.combine(trainable, frozen)
    steps = pipeline.sampler.steps(num_inference_steps)
    episode = Episode(
        sampler=pipeline.sampler,
        decoder=pipeline.decode,
        denoiser=pipeline.denoiser(
            steps,
            input_ids,
            negative_ids,
            guidance_scale,
            remat="block" if remat == "nested" else remat,
        ),
        steps=steps,
        latents=latents,
        reward=reward,
        prompts=prompt_features,
        remat=remat,
        images_at_once=images_at_once,
    )
    return method(episode, key)


value_and_grad = eqx.filter_value_and_grad(objective, has_aux=True)
_value_and_grad = eqx.filter_jit(value_and_grad)


def check_trainable(pipeline: Pipeline) -> None:
    """Raises unless the pipeline has an adapter to train."""
    if not has_lora(pipeline):
        raise ValueError(
            "`pipeline` must carry a LoRA adapter to be trained; it has none. Add one "
            "with `draftx.add_lora(pipeline, rank=8, key=...)`."
        )


def check_memory_options(remat: str, images_at_once: int | None, batch: int) -> None:
    """Raises unless both are possible for a batch of this size."""
    check_remat(remat)
    size = images_at_once
    if size is None:
        return
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or batch % size:
        raise ValueError(
            "`images_at_once` must be None or a whole number that divides the batch, "
            f"{batch}; got {size!r}."
        )


def prepare_prompts(reward: Reward, prompts: Prompts) -> Any:
    """What the reward wants to be given of the prompts, one row for each."""
    return reward.prepare(prompts) if isinstance(reward, AbstractReward) else None


def check_reward(
    pipeline: Pipeline, reward: Reward, shape: tuple[int, ...], prompt_features: Any
) -> None:
    """Traces the reward, without running it, and raises unless it gives `[batch]`."""
    latents = jax.ShapeDtypeStruct(shape, jnp.float32)
    images = eqx.filter_eval_shape(pipeline.decode, latents)
    rows = lambda x: jax.ShapeDtypeStruct((shape[0], *x.shape[1:]), x.dtype)
    prompt_features = jax.tree.map(rows, prompt_features)
    scores = eqx.filter_eval_shape(call_reward, reward, images, prompt_features)
    got = getattr(scores, "shape", type(scores).__name__)
    if got != (shape[0],):
        raise RewardError(
            "`reward` must give one score for each image, shape "
            f"({shape[0]},) for this batch; got {got}. Do not average over the batch."
        )
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise RewardError(
            f"`reward` must give floating-point scores; got {scores.dtype}."
        )


def check_finite(rewards: Array) -> None:
    """Raises if a reward came out as NaN or infinite."""
    values = np.asarray(rewards, np.float32)
    if not np.all(np.isfinite(values)):
        raise RewardError(
            f"`reward` must give finite scores; got {values.tolist()}. Check it on the "
            "images of `draftx.sample`, in float32."
        )
