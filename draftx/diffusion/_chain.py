from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._autodiff import checkpointed_fori_loop, stop_gradient
from .._custom_types import Latents
from ._ddim import DDIM, DDIMSteps
from ._guidance import AbstractDenoiser


# What a step is charged for each image: `cost(denoiser, latents, prediction, step,
# index)`, with `latents` those before the step.
StepCost: TypeAlias = Callable[..., Float[Array, " batch"]]


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
    latents, _ = run_chain_with_cost(
        sampler,
        denoiser,
        steps,
        latents,
        None,
        truncation_steps=truncation_steps,
        key=key,
        checkpoint_steps=checkpoint_steps,
    )
    return latents


def run_chain_with_cost(
    sampler: DDIM,
    denoiser: AbstractDenoiser,
    steps: DDIMSteps,
    latents: Latents,
    cost: StepCost | None,
    *,
    truncation_steps: int | Int[Array, ""] | None = None,
    key: PRNGKeyArray | None = None,
    checkpoint_steps: bool = True,
) -> tuple[Latents, Float[Array, " batch"] | None]:
    """`run_chain`, and what `cost` says of its last $K$ steps, summed over them.

    **Arguments:**

    - `cost`: Charges every differentiated step, by the prediction that the step makes
        anyway; `None` for no cost. A module, if it holds arrays.

    The other arguments are those of `run_chain`.
    """
    total = len(steps)
    k = total if truncation_steps is None else truncation_steps

    def step(index: Int[Array, ""], state, denoiser, steps, key, cost):
        latents, costs = state
        prediction = denoiser(latents, index)
        if cost is not None:
            costs = costs + cost(denoiser, latents, prediction, steps[index], index)
        return _update(sampler, index, latents, prediction, steps, key), costs

    first = total - k
    if not isinstance(k, int) or k < total:
        latents = run_frozen(sampler, denoiser, steps, latents, 0, first, key=key)
    none = None if cost is None else jnp.zeros(latents.shape[0], latents.dtype)
    state, args = (latents, none), (denoiser, steps, key, cost)
    if not isinstance(first, int):
        return checkpointed_fori_loop(first, total, step, state, *args)
    if k == 1:
        # Without a loop, nothing before the first adapted layer is differentiated.
        if checkpoint_steps:
            step = eqx.filter_checkpoint(step)
        state = step(jnp.asarray(first), state, *args)
    elif k > 1:
        if checkpoint_steps:
            # A loop's body is a program of its own: no need for a barrier.
            step = eqx.filter_checkpoint(step, prevent_cse=False)
        state, _ = lax.scan(
            lambda state, i: (step(i, state, *args), None),
            state,
            jnp.arange(first, total),
        )
    return state


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

    def step(index: Int[Array, ""], latents: Latents) -> Latents:
        prediction = denoiser(latents, index)
        return _update(sampler, index, latents, prediction, steps, key)

    return lax.stop_gradient(lax.fori_loop(start, stop, step, latents))


def step_noise(
    key: PRNGKeyArray | None, index: Int[Array, ""], latents: Latents
) -> Latents | None:
    """The noise that a chain with this key adds at one step; `None` without a key."""
    if key is None:
        return None
    return jr.normal(jr.fold_in(key, index), latents.shape, latents.dtype)


def _update(sampler, index, latents, prediction, steps, key) -> Latents:
    noise = step_noise(key, index, latents)
    return sampler.step(latents, prediction, steps[index], noise)
