import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from .._autodiff import checkpointed_fori_loop, stop_gradient
from .._custom_types import Latents
from ._ddim import DDIM, DDIMSteps
from ._guidance import AbstractDenoiser


def run_chain(
    sampler: DDIM,
    denoiser: AbstractDenoiser,
    steps: DDIMSteps,
    latents: Latents,
    *,
    truncation_steps: int | Int[Array, ""] | None = None,
    key: PRNGKeyArray | None = None,
    checkpoint_steps: bool = True,
) -> Latents:
    r"""The whole sampling chain, differentiable through its last steps only.

    The first $T - K$ steps are a scan that sees nothing but constants; then the latents
    pass a `lax.stop_gradient`; then come $K$ steps that can be differentiated.

    **Arguments:**

    - `sampler`: The update rule.
    - `denoiser`: Predicts; its arrays are what gradients are taken with respect to.
    - `steps`: From `sampler.steps`.
    - `latents`: Unit-variance noise.
    - `truncation_steps`: $K$, from 0 (a constant) to $T$ (also the gradient with
        respect to `latents`). `None` is $T$. A traced array serves every $K$ by one
        program, in time proportional to $K$; a Python number is the fastest.
    - `key`: Draws the noise of every step. `None` adds no noise.
    - `checkpoint_steps`: Whether the backward pass is left one latent a step, and
        computes the step again. Always so if $K$ is traced.

    **Returns:**

    Clean scaled latents, float32.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), Algorithm 1 and section 4.
    """
    total = len(steps)
    k = total if truncation_steps is None else truncation_steps

    def step(index: Int[Array, ""], latents: Latents, denoiser, steps, key) -> Latents:
        return _step(sampler, index, latents, denoiser, steps, key)

    if not isinstance(k, int):
        first = total - k
        latents = run_frozen(sampler, denoiser, steps, latents, 0, first, key=key)
        return checkpointed_fori_loop(first, total, step, latents, denoiser, steps, key)
    first = total - k
    if k < total:
        latents = run_frozen(sampler, denoiser, steps, latents, 0, first, key=key)
    if k == 1:
        # Without a loop, nothing before the first adapted layer is differentiated.
        if checkpoint_steps:
            step = eqx.filter_checkpoint(step)
        latents = step(jnp.asarray(first), latents, denoiser, steps, key)
    elif k > 1:
        if checkpoint_steps:
            # A loop's body is a program of its own: no need for a barrier.
            step = eqx.filter_checkpoint(step, prevent_cse=False)
        latents, _ = lax.scan(
            lambda x, i: (step(i, x, denoiser, steps, key), None),
            latents,
            jnp.arange(first, total),
        )
    return latents


def run_frozen(
    sampler: DDIM,
    denoiser: AbstractDenoiser,
    steps: DDIMSteps,
    latents: Latents,
    start: int | Int[Array, ""],
    stop: int | Int[Array, ""],
    *,
    key: PRNGKeyArray | None = None,
) -> Latents:
    """The steps from `start` to before `stop` of a chain, as a constant.

    The other arguments are those of `run_chain`.
    """
    # Stopping the gradient of what goes in, not of what comes out: nothing of these
    # steps is then linearized, let alone kept.
    denoiser, steps, latents = stop_gradient((denoiser, steps, latents))
    step = lambda index, x: _step(sampler, index, x, denoiser, steps, key)
    return lax.stop_gradient(lax.fori_loop(start, stop, step, latents))


def _step(sampler, index, latents, denoiser, steps, key) -> Latents:
    prediction = denoiser(latents, index)
    noise = None
    if key is not None:
        noise = jr.normal(jr.fold_in(key, index), latents.shape, latents.dtype)
    return sampler.step(latents, prediction, steps[index], noise)
