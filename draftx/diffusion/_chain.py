import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from .._custom_types import Latents
from ._ddim import DDIM, DDIMSteps
from ._guidance import Denoiser


def run_chain(
    sampler: DDIM,
    denoiser: Denoiser,
    steps: DDIMSteps,
    latents: Latents,
    *,
    truncation_steps: int | None = None,
    key: PRNGKeyArray | None = None,
) -> Latents:
    r"""The whole sampling chain, differentiable through its last steps only.

    Two scans: the first $T - K$ steps see nothing but constants, then the latents pass
    a `lax.stop_gradient`, then $K$ steps run under `jax.checkpoint`, so that what is
    kept for the backward pass is one latent a step.

    **Arguments:**

    - `sampler`: The update rule.
    - `denoiser`: Predicts; its arrays are what gradients are taken with respect to.
    - `steps`: From `sampler.steps`.
    - `latents`: Unit-variance noise.
    - `truncation_steps`: $K$, from 0 (a constant) to $T$ (also the gradient with
        respect to `latents`). `None` is $T$.
    - `key`: Draws the noise of every step. `None` adds no noise.

    **Returns:**

    Clean scaled latents, float32.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), Algorithm 1 and section 4.
    """
    total = len(steps)
    k = total if truncation_steps is None else truncation_steps

    def body(denoiser: Denoiser, latents: Latents, step: DDIMSteps, index: Array):
        prediction = denoiser(latents, step.timestep)
        noise = None
        if key is not None:
            noise = jr.normal(jr.fold_in(key, index), latents.shape, latents.dtype)
        return sampler.step(latents, prediction, step, noise)

    indices = jnp.arange(total)
    if k < total:
        # Stopping the gradient of what goes in, not of what comes out: nothing of
        # this scan is then linearized, let alone kept.
        frozen = stop_gradient(denoiser)
        latents, _ = lax.scan(
            lambda x, row: (body(frozen, x, *row), None),
            lax.stop_gradient(latents),
            (steps[: total - k], indices[: total - k]),
        )
        latents = lax.stop_gradient(latents)
    if k > 0:
        remat_body = eqx.filter_checkpoint(body, prevent_cse=False)
        latents, _ = lax.scan(
            lambda x, row: (remat_body(denoiser, x, *row), None),
            latents,
            (steps[total - k :], indices[total - k :]),
        )
    return latents


def stop_gradient(tree):
    """`lax.stop_gradient` of every inexact array in a tree."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lax.stop_gradient, arrays), rest)
