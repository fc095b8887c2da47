from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray

from .._autodiff import stop_gradient
from .._custom_types import InputIds, Latents, NegativeInputIds, Prompts, Real
from ..diffusion import AbstractDenoiser, AbstractLoRASchedule
from ..layers import Remat
from ..pipeline import Pipeline, prepare
from ._checks import check_finite, check_memory_options, prepare_reward
from ._estimator import AbstractGradientEstimator, Episode, Reward
from ._probe import check_differentiable
from ._trainable import check_trained, trainable_filter


# Where the noise of the steps branches off the key of an episode: no estimator splits
# its key into as many.
_NOISE_BRANCH = 2**31 - 1


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
    eta: Real = 0.0,
    lora_schedule: AbstractLoRASchedule | None = None,
    remat: Remat = "step",
    images_at_once: int | None = None,
) -> tuple[Float[Array, " batch"], Pipeline]:
    """The gradient of the mean reward with respect to the adapter.

    And to the learned inputs of the sampler, if there are any
    (`draftx.add_learned_inputs`).

    **Arguments:**

    - `pipeline`: With an adapter (`draftx.add_lora`). Everything else is frozen.
    - `reward`: Images `[batch, height, width, 3]` in $[0, 1]$ to scores `[batch]`; a
        function, or a `draftx.rewards.AbstractReward`, which may look at the prompts.
    - `prompts`: One for each image.
    - `method`: `draftx.DRaFT(...)`, `draftx.DRaFTLV(...)` or another estimator.
    - `key`: Draws the starting noise and what noise the method needs. `None` is
        `jax.random.key(0)`.
    - `latents`, `negative_prompts`, `num_inference_steps`, `guidance_scale`, `eta`,
        `lora_schedule`: As for `draftx.sample`.
    - `remat`: What the backward pass computes again instead of keeping it. `"none"`:
        nothing. `"ff"`: the feed-forward layers. `"block"`: the transformers; what is
        kept is little more than the feature maps between blocks. `"step"`: whole
        sampling steps, so that one latent is kept a step. `"nested"`: steps, and while
        that is done their blocks, the least memory. The decoder and the reward are
        computed again block by block with the last three.
    - `images_at_once`: Decodes and rewards so many images at a time, to save memory;
        must divide the batch, and the reward must look at every image on its own.
        `None` is all at once.

    **Returns:**

    The rewards of the images, and a pipeline that holds gradients at the adapter's
    arrays and `None` elsewhere; `draftx.lora_state_dict` names them. Add a multiple of
    the gradient to ascend.

    Raises a `ValueError` that names the argument before any long work, and a
    `RewardError` for a reward without a finite score for each image, or without a
    gradient although the method needs one.
    """
    input_ids, negative_ids, latents, method_key = prepare(
        pipeline,
        prompts,
        key=key,
        latents=latents,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
    )
    method.check(num_inference_steps)
    check_trained(
        pipeline,
        method,
        lora_schedule,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    check_memory_options(remat, images_at_once, len(latents))
    prompt_features = prepare_reward(pipeline, reward, prompts, latents.shape)
    if method.needs_reward_gradient():
        size = images_at_once or len(latents)
        shape = (size, *latents.shape[1:])
        check_differentiable(pipeline, reward, shape, prompt_features)
    trainable, frozen = eqx.partition(pipeline, trainable_filter(pipeline))
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
        eta=eta,
        lora_schedule=lora_schedule,
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
    eta: Real = 0.0,
    lora_schedule: AbstractLoRASchedule | None = None,
    remat: Remat = "step",
    images_at_once: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
    """The estimator's objective as a function of the adapter, and the rewards.

    With a `mesh`, the batch is split over its one axis, `"data"`.
    """
    pipeline = eqx.combine(trainable, frozen)
    steps = pipeline.sampler.steps(num_inference_steps, eta=eta)
    conditioning = (steps, input_ids, negative_ids, guidance_scale)
    episode = Episode(
        sampler=pipeline.sampler,
        decoder=pipeline.decode,
        denoiser=pipeline.denoiser(
            *conditioning, remat=remat, lora_schedule=lora_schedule, mesh=mesh
        ),
        steps=steps,
        latents=latents,
        reward=reward,
        prompts=prompt_features,
        remat=remat,
        images_at_once=images_at_once,
        noise_key=jr.fold_in(key, _NOISE_BRANCH) if eta > 0 else None,
        base=eqx.Partial(_base, stop_gradient(pipeline.without_lora()), *conditioning),
    )
    return method(episode, key)


def _base(pipeline: Pipeline, *conditioning: Any) -> AbstractDenoiser:
    return pipeline.denoiser(*conditioning)


value_and_grad = eqx.filter_value_and_grad(objective, has_aux=True)
_value_and_grad = eqx.filter_jit(value_and_grad)
