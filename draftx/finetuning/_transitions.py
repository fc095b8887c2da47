import math
from typing import Literal, TypeAlias

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import stop_gradient
from .._custom_types import Latents
from ..diffusion import AbstractDenoiser, DDIM, DDIMSteps


# How the log-density of the numbers of one image makes one number.
Reduction: TypeAlias = Literal["mean", "sum"]


def log_prob(
    sampler: DDIM,
    latents: Latents,
    prediction: Latents,
    step: DDIMSteps,
    following: Latents,
    *,
    reduction: Reduction = "mean",
) -> Float[Array, " batch"]:
    r"""$\log p(x_{t-1} \mid x_t)$ of a chain with noise, for each image.

    A step is Gaussian, with the mean that the sampler gives without noise and the
    standard deviation $\sigma_t$ of $\eta$. Where a step adds no noise there is no
    density; the number given is then of no use.

    **Arguments:**

    - `latents`, `following`: $x_t$ and the $x_{t-1}$ that was drawn.
    - `prediction`: The model's output at $x_t$.
    - `step`: From `sampler.steps(..., eta=...)`.
    - `reduction`: `"sum"` is the log-density. `"mean"` divides it by the number of
        dimensions, as DDPO's authors do, so that ratios of probabilities are near 1
        for latents of any size.
    """
    mean = sampler.step(latents, prediction, step, jnp.zeros_like(latents))
    scale = jnp.where(step.noise_scale > 0, step.noise_scale, 1)
    normalized = (following - mean) / scale
    each = -(normalized**2) / 2 - jnp.log(scale) - math.log(2 * math.pi) / 2
    reduce = jnp.mean if reduction == "mean" else jnp.sum
    return reduce(each, axis=(1, 2, 3))


def record_chain(
    sampler: DDIM,
    denoiser: AbstractDenoiser,
    steps: DDIMSteps,
    latents: Latents,
    key: PRNGKeyArray | None = None,
) -> tuple[
    Float[Array, "visited batch height width channels"],
    Float[Array, "steps batch height width channels"],
]:
    """A chain that remembers: the latents from the first noise to the clean ones, one
    more than there are steps, and the prediction of every step. All are constants.

    The noise is that of [`draftx.diffusion.run_chain`][] with the same key.
    """
    denoiser, steps, latents = stop_gradient((denoiser, steps, latents))

    def body(latents: Latents, index: Int[Array, ""]):
        prediction = denoiser(latents, index)
        noise = None
        if key is not None:
            noise = jr.normal(jr.fold_in(key, index), latents.shape, latents.dtype)
        following = sampler.step(latents, prediction, steps[index], noise)
        return following, (following, prediction)

    _, (visited, predictions) = lax.scan(body, latents, jnp.arange(len(steps)))
    visited = jnp.concatenate([latents[None], visited])
    return lax.stop_gradient((visited, predictions))


def random_steps(
    sampler: DDIM, num_inference_steps: int, eta: float
) -> Int[np.ndarray, " random"]:
    """The indices of the steps that add noise: only these have a density.

    The last step adds none where the chain ends without noise (`set_alpha_to_one`).
    """
    with jax.ensure_compile_time_eval():
        scale = np.asarray(sampler.steps(num_inference_steps, eta=eta).noise_scale)
    (indices,) = np.nonzero(scale > 0)
    if len(indices) == 0:
        raise ValueError(
            "`num_inference_steps` must leave a step that adds noise, or there is no "
            f"probability to raise; got {num_inference_steps} with eta={eta}."
        )
    return indices.astype(np.int32)
