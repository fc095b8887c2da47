import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .._custom_types import Images, InputIds, Latents, NegativeInputIds, Prompts, Real
from .._table import check_prompts
from ..diffusion import AbstractLoRASchedule, run_chain
from ..models import iter_linears
from ._pipeline import Pipeline


def sample(
    pipeline: Pipeline,
    prompts: Prompts,
    *,
    key: PRNGKeyArray | None = None,
    latents: Any = None,
    negative_prompts: Prompts = None,
    num_inference_steps: int = 50,
    guidance_scale: Real = 7.5,
    eta: Real = 0.0,
    lora_schedule: AbstractLoRASchedule | None = None,
) -> Images:
    r"""Draws one image for each prompt.

    **Arguments:**

    - `pipeline`: From `draftx.load`.
    - `prompts`: A non-empty list of strings.
    - `key`: Draws the starting noise, and the noise of the steps if `eta > 0`. `None`
        is `jax.random.key(0)`.
    - `latents`: Unit-variance starting noise, `[batch, height, width, channels]`,
        instead of one drawn from `key`. Its size sets the size of the images.
    - `negative_prompts`: What guidance leads away from; one for all or one for each.
        `None` is the empty prompt.
    - `num_inference_steps`: $T$, from 1 to 1000.
    - `guidance_scale`: $w$ of classifier-free guidance; 1 switches it off.
    - `eta`: Noise added by DDIM: 0 is none, 1 that of the ancestral sampler.
    - `lora_schedule`: At which steps the adapter is on, such as
        `draftx.LoRAWindow(last=20)` or `draftx.AnnealedGuidance()`. `None` is all.

    **Returns:**

    Images `[batch, height, width, 3]`, float32, in $[0, 1]$.

    Raises a `ValueError` that names the argument for anything out of range.
    """
    input_ids, negative_ids, latents, noise_key = prepare(
        pipeline,
        prompts,
        key=key,
        latents=latents,
        negative_prompts=negative_prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        eta=eta,
    )
    check_lora_schedule(pipeline, lora_schedule, num_inference_steps)
    return _sample(
        pipeline,
        input_ids,
        negative_ids,
        latents,
        jnp.asarray(guidance_scale, jnp.float32),
        jnp.asarray(eta, jnp.float32),
        noise_key if eta > 0 else None,
        num_inference_steps,
        lora_schedule,
    )


@eqx.filter_jit
def _sample(
    pipeline: Pipeline,
    input_ids: InputIds,
    negative_ids: NegativeInputIds | None,
    latents: Latents,
    guidance_scale: Float[Array, ""],
    eta: Float[Array, ""],
    key: PRNGKeyArray | None,
    num_inference_steps: int,
    lora_schedule: AbstractLoRASchedule | None,
) -> Images:
    steps = pipeline.sampler.steps(num_inference_steps, eta=eta)
    denoiser = pipeline.denoiser(
        steps, input_ids, negative_ids, guidance_scale, lora_schedule=lora_schedule
    )
    latents = run_chain(
        pipeline.sampler, denoiser, steps, latents, truncation_steps=0, key=key
    )
    return pipeline.decode(latents)


def prepare(
    pipeline: Pipeline,
    prompts: Prompts,
    *,
    key: PRNGKeyArray | None,
    latents: Any,
    negative_prompts: Prompts,
    num_inference_steps: int,
    guidance_scale: Real,
    eta: Real,
) -> tuple[InputIds, NegativeInputIds | None, Latents, PRNGKeyArray]:
    """Checks what a user asks of a pipeline, before any long work.

    **Returns:**

    Token ids of the prompts, token ids of the negative prompts (`None` if guidance is
    off), the starting noise, which is what was given or drawn from `key`, and a key
    for all that is random after it.
    """
    check_eta(eta)
    check_prompts(prompts)
    check_guidance_scale(guidance_scale)
    pipeline.sampler.timesteps(num_inference_steps)  # Raises outside of [1, 1000].
    latents_key, later_key = jr.split(jr.key(0) if key is None else key)
    if latents is None:
        shape = (len(prompts), *pipeline.latent_shape)
        latents = jr.normal(latents_key, shape, jnp.float32)
    else:
        latents = check_latents(pipeline, latents, len(prompts))
    negative_ids = None
    if guidance_scale != 1:
        negative_ids = negative_input_ids(pipeline, negative_prompts, len(prompts))
    return pipeline.tokenize(prompts), negative_ids, latents, later_key


def negative_input_ids(
    pipeline: Pipeline, negative_prompts: Prompts, batch: int
) -> NegativeInputIds:
    """Token ids of what guidance leads away from: one row, or one for each image."""
    if negative_prompts is None:
        return pipeline.tokenize([""])
    check_prompts(negative_prompts, "negative_prompts")
    if len(negative_prompts) not in (1, batch):
        raise ValueError(
            "`negative_prompts` must hold one prompt for all images or one for each; "
            f"got {len(negative_prompts)} for {batch} images."
        )
    return pipeline.tokenize(negative_prompts)


def check_eta(eta: Real) -> None:
    """Raises unless this much noise can be added by DDIM."""
    if not (math.isfinite(eta) and 0 <= eta <= 1):
        raise ValueError(f"`eta` must lie in [0, 1]; got {eta}.")


def check_lora_schedule(
    pipeline: Pipeline, schedule: AbstractLoRASchedule | None, num_inference_steps: int
) -> None:
    """Raises unless there is an adapter to schedule, over a chain of this length."""
    if schedule is None:
        return
    schedule.check(num_inference_steps)
    if all(layer.lora_down is None for _, layer in iter_linears(pipeline)):
        raise ValueError(
            "`lora_schedule` must be None for a pipeline without a LoRA adapter; got "
            f"{schedule}."
        )


def check_guidance_scale(guidance_scale: Real) -> None:
    """Raises unless the guidance scale is a finite number."""
    if not math.isfinite(guidance_scale):
        raise ValueError(f"`guidance_scale` must be finite; got {guidance_scale}.")


def check_latents(pipeline: Pipeline, latents: Any, batch: int) -> Latents:
    """Starting noise as float32, or a `ValueError` that says what is wrong with it."""
    shape = np.shape(latents)
    channels = pipeline.unet.config.in_channels
    if len(shape) != 4 or shape[0] != batch or shape[3] != channels:
        raise ValueError(
            "`latents` must have shape (batch, height, width, channels) = "
            f"({batch}, height, width, {channels}), channels last; got {shape}."
        )
    factor = pipeline.unet.config.downsampling_factor
    if shape[1] % factor or shape[2] % factor or not (shape[1] and shape[2]):
        raise ValueError(
            f"`latents` must have a height and a width divisible by {factor}, the "
            f"UNet's factor; got {shape[1]}x{shape[2]}."
        )
    if not jnp.issubdtype(jnp.result_type(latents), jnp.floating):
        raise ValueError(
            f"`latents` must be floating point; got {jnp.result_type(latents)}."
        )
    return jnp.asarray(latents, jnp.float32)
