"""Which steps of a chain reach its result: a step that does nothing teaches nothing."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._custom_types import Latents
from ._interpolant import training_target
from ._sampler import AbstractSampler, AbstractSteps


# Rounding leaves some 1e-8 of a change by one where nothing should be left; a step that
# counts leaves 1e-4 or more, in a chain of a thousand steps too.
_NOTHING = 1e-6


def find_idle_steps(
    sampler: AbstractSampler, steps: AbstractSteps, *, jumps: bool = False
) -> frozenset[int]:
    """Finds the steps at which it makes no difference what the model predicts.

    Such a step goes from a noise level to the same: the last of a chain, where a config
    has `set_alpha_to_one: false` and its timesteps end at 0, or the first of a chain
    that starts beyond the schedule.

    **Arguments:**

    - `sampler`, `steps`: Of the chain, 0 the noisiest.
    - `jumps`: Whether to ask about the clean latents predicted at a step, instead of
        the latents after it.
    """

    def moved(step: AbstractSteps) -> Array:
        def after(prediction: Latents) -> Latents:
            latents = jnp.zeros((1, 1, 1, 1))
            if jumps:
                return sampler.predict(latents, prediction, step)[0]
            memory = sampler.memory(latents)
            return sampler.update(latents, prediction, step, memory)[0]

        return jnp.squeeze(
            after(jnp.ones((1, 1, 1, 1))) - after(jnp.zeros((1, 1, 1, 1)))
        )

    change = _of_each_step(moved, steps)
    return frozenset(np.flatnonzero(np.abs(change) <= _NOTHING).tolist())


def noise_levels(
    sampler: AbstractSampler, steps: AbstractSteps
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    r"""Computes the noise $\sigma_t$ of the latents before each step, and after it.

    **Arguments:**

    - `sampler`, `steps`: Of the chain, 0 the noisiest.
    """

    def levels(step: AbstractSteps) -> Array:
        none, one = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
        signal = sampler.add_noise(one, none, step)
        sigma = sampler.add_noise(none, one, step)
        # What a model says of noise alone that knows the noise: its share stays noise.
        kind = sampler.config.prediction_type
        prediction = training_target(kind, none, one, signal, sigma)
        after, _ = sampler.update(sigma, prediction, step, sampler.memory(sigma))
        after = jnp.sqrt(after**2 + step.noise_scale**2)
        return jnp.stack([jnp.squeeze(sigma), jnp.squeeze(after)])

    both = _of_each_step(levels, steps)
    return both[:, 0], both[:, 1]


def _of_each_step(
    function: Callable[[AbstractSteps], Array], steps: AbstractSteps
) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        return np.asarray(eqx.filter_vmap(function)(steps))
