"""From what a user asks of a pipeline to arrays, every mistake named on the way."""

import warnings
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from .._custom_types import Latents, Real
from .._keys import check_key
from .._table import Table
from ..lora import has_lora
from ._batch import Batch, Conditioning
from ._channels import make_channels
from ._pipeline import Pipeline
from ._plan import Plan
from ._sampling import check_eta, Sampling


def make_plan(
    pipeline: Pipeline, sampling: Sampling, *, eta: Real | None = None
) -> Plan:
    """Resolves options for a pipeline, and checks all that takes both to check.

    **Arguments:**

    - `pipeline`: Whose sampler is used unless the options have one.
    - `sampling`: The options.
    - `eta`: That of a method that draws its own chain: the options' must then be 0 or
        the same. Samplers that do not take it have their own noise.
    """
    sampler = sampling.sampler_for(pipeline.sampler.config) or pipeline.sampler
    check_eta(sampler, sampling.eta)
    sampler.steps(
        sampling.num_inference_steps, sampling.eta
    )  # Raises outside of its range.
    check_adapter(pipeline, sampling)
    if eta is None or not sampler.takes_eta:
        eta = sampling.eta
    elif sampling.eta not in (0, eta):
        raise ValueError(
            f"`eta` of `sampling` must be 0 or that of `method`, {eta}; got "
            f"{sampling.eta}."
        )
    return Plan(sampling, sampler, eta)


def check_adapter(pipeline: Pipeline, sampling: Sampling) -> None:
    """Raises if the options schedule an adapter that is not there."""
    if sampling.lora_schedule is not None and not has_lora(pipeline):
        raise ValueError(
            "`lora_schedule` must be None for a pipeline without a LoRA adapter; got "
            f"{sampling.lora_schedule}."
        )


def latent_shape(pipeline: Pipeline, sampling: Sampling) -> tuple[int, int, int]:
    """Computes height, width and channels of the latents of images of this size.

    **Arguments:**

    - `pipeline`: Whose size is the default.
    - `sampling`: The options.
    """
    height, width, channels = pipeline.latent_shape
    pixels = pipeline.vae.config.downsampling_factor
    least = pixels * pipeline.unet.config.downsampling_factor
    sizes = []
    for name, own in (("height", height), ("width", width)):
        given = getattr(sampling, name)
        value = own * pixels if given is None else given
        if value % least:
            nearest = max(1, round(value / least)) * least
            got = "the model's own, " if given is None else ""
            raise ValueError(
                f"`{name}` must be a multiple of {least} pixels, which the autoencoder "
                f"and the UNet halve it by; got {got}{value}. Use {nearest}."
            )
        sizes.append(value // pixels)
    return (sizes[0], sizes[1], channels)


def condition(
    pipeline: Pipeline, table: Table, sampling: Sampling, shape: tuple[int, ...]
) -> Conditioning:
    """Makes arrays of the columns that the pipeline is conditioned on.

    Both a column `negative_prompt` and the option of that name are a `ValueError`.

    **Arguments:**

    - `pipeline`: Whose tokenizer and UNet say what is wanted.
    - `table`: The rows.
    - `sampling`: The options.
    - `shape`: Of the latents of a batch.
    """
    negative = None
    if "negative_prompt" in table and sampling.negative_prompt is not None:
        raise ValueError(
            "`negative_prompt` must be an option of sampling or a column beside the "
            f"prompts; got both, the option {sampling.negative_prompt!r}."
        )
    if "negative_prompt" in table and not sampling.is_guided:
        warnings.warn(
            "The column 'negative_prompt' has no effect: with `guidance_scale` "
            f"{sampling.guidance_scale} guidance is off. Raise it above 1, or leave "
            "the column out.",
            stacklevel=4,
        )
    if sampling.is_guided:
        texts = [sampling.negative_prompt or ""]
        if "negative_prompt" in table:
            texts = table["negative_prompt"]
        negative = pipeline.tokenize(texts)
    return Conditioning(
        pipeline.tokenize(table.prompts),
        negative,
        make_channels(pipeline, table, shape),
    )


def prepare(
    pipeline: Pipeline,
    table: Table,
    sampling: Sampling,
    *,
    key: PRNGKeyArray | None,
    latents: Any,
) -> Batch:
    """Makes a batch of a table, one image for each row.

    **Arguments:**

    - `pipeline`, `sampling`: What draws the images, and how.
    - `table`: The rows.
    - `key`: Draws the starting noise and all that is random after it; `None` is
        `jax.random.key(0)`.
    - `latents`: Starting noise instead of one that is drawn, or `None`.
    """
    plan = make_plan(pipeline, sampling)
    latents, later_key = starting_noise(
        pipeline, len(table), sampling, key=key, latents=latents
    )
    conditioning = condition(pipeline, table, sampling, latents.shape)
    return Batch(conditioning, latents, later_key, plan)


def starting_noise(
    pipeline: Pipeline,
    batch: int,
    sampling: Sampling,
    *,
    key: PRNGKeyArray | None,
    latents: Any,
) -> tuple[Latents, PRNGKeyArray]:
    """Draws the noise that images start from, or checks what is given.

    **Arguments:**

    - `pipeline`, `sampling`, `key`, `latents`: As for `prepare`.
    - `batch`: How many images.

    **Returns:**

    The noise `[batch, height, width, channels]`, and a key for all that follows.
    """
    key = jr.key(0) if key is None else check_key(key)
    latents_key, later_key = jr.split(key)
    if latents is not None:
        return check_latents(pipeline, latents, sampling, batch), later_key
    shape = (batch, *latent_shape(pipeline, sampling))
    return jr.normal(latents_key, shape, jnp.float32), later_key


def check_latents(
    pipeline: Pipeline, latents: Any, sampling: Sampling, batch: int
) -> Latents:
    """Makes float32 of starting noise, or a `ValueError` that says what is wrong."""
    shape = np.shape(latents)
    channels = pipeline.latent_shape[2]
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
    expected = latent_shape(pipeline, sampling)
    for axis, name in enumerate(("height", "width")):
        value = getattr(sampling, name)
        if value is not None and shape[1 + axis] != expected[axis]:
            raise ValueError(
                f"`latents` must have the size that `{name}` says, "
                f"{expected[axis]} for {value} pixels; got {shape[1 + axis]}. Leave "
                f"`{name}` out: the latents set the size."
            )
    if not jnp.issubdtype(jnp.result_type(latents), jnp.floating):
        raise ValueError(
            f"`latents` must be floating point; got {jnp.result_type(latents)}."
        )
    return jnp.asarray(latents, jnp.float32)
