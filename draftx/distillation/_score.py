"""What the model says of noised latents, less the noise: the residual that is followed.

No gradient passes through any of this.
"""

from typing import Any

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._custom_types import Latents
from .._scaled_gradient import scaled_call
from ..diffusion import (
    AbstractDenoiser,
    Chain,
    DDIM,
    DDIMSteps,
    run_frozen,
    SchedulerConfig,
)
from ..pipeline import Conditioning, Pipeline
from ._method import ScoreDistillation
from ._pictures import AbstractPictures


class Score(eqx.Module):
    """Binds a model to what it is told of the images of a step.

    **Arguments:**

    - `pipeline`: The model.
    - `method`: The options.
    - `conditioning`: Of the images.
    - `guidance_scale`: `None` where guidance is off.
    - `pictures`: Visual prompts; `None` for none.
    - `features`: What the reward of several noises prepared of the rows.
    """

    pipeline: Pipeline
    method: ScoreDistillation
    conditioning: Conditioning
    guidance_scale: Float[Array, ""] | None
    pictures: AbstractPictures | None = None
    features: Any = None

    @property
    def config(self) -> SchedulerConfig:
        """How the model was trained."""
        return self.pipeline.sampler.config

    def residual(
        self, latents: Latents, key: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Latents, dict[str, Array]]:
        r"""Computes $w(t)\,(\hat\epsilon - \epsilon)$ of latents.

        **Arguments:**

        - `latents`: Clean, of what was rendered.
        - `key`: Draws the time, the noise of the pictures and that of the latents.
        - `step`: Number of the training step.

        **Returns:**

        The residual, weighed over noises if there are several, and `timestep` and
        `residual`, its root mean square before $w(t)$.
        """
        time_key, picture_key, noise_key = jr.split(key, 3)
        total = self.config.num_train_timesteps
        timestep = self.method.draw_timestep(time_key, step, total)
        noises = self.method.noises
        num_steps = 1 if noises is None else noises.num_steps
        steps = steps_from(self.config, timestep, num_steps)
        denoiser = self._denoiser(steps, picture_key)
        chain = Chain(DDIM(self.config), denoiser, steps)
        if noises is None:
            found, _ = _difference(chain, latents, noise_key)
        else:
            found = self._weighed(
                chain, latents, jr.split(noise_key, noises.num_noises)
            )
        first = steps[0]
        weight = self.method.weight(jnp.sqrt(first.alpha), jnp.sqrt(1 - first.alpha))
        size = jnp.sqrt(jnp.mean(jnp.square(found)))
        return weight * found, {"timestep": timestep, "residual": size}

    def _weighed(self, chain: Chain, latents: Latents, keys: Any) -> Latents:
        """The residual of several noises, one after the other."""
        noises = self.method.noises
        assert noises is not None

        def finish(key: PRNGKeyArray) -> tuple[Latents, Float[Array, " batch"]]:
            found, state = _difference(chain, latents, key)
            clean = run_frozen(chain, state, 1, len(chain)).latents
            images = self.pipeline.decode(clean)
            rewards = scaled_call(noises.reward, images, self.features)
            return found, rewards.astype(jnp.float32)

        found, rewards = lax.map(finish, keys)
        return jnp.einsum("nb,nbhwc->bhwc", noises.weights(rewards), found)

    def _denoiser(self, steps: DDIMSteps, key: PRNGKeyArray) -> AbstractDenoiser:
        told = self.conditioning, self.guidance_scale
        if self.pictures is None:
            return self.pipeline.denoiser(steps.timestep, *told)
        return self.pictures.denoiser(self.pipeline, *told, steps, key)


def steps_from(
    config: SchedulerConfig, timestep: Int[Array, ""], num_steps: int
) -> DDIMSteps:
    """Computes the numbers of the steps of DDIM from a time to clean latents.

    **Arguments:**

    - `config`: How the model was trained.
    - `timestep`: The first, which may be traced.
    - `num_steps`: Evenly spaced, to the nearest timestep.
    """
    alphas = jnp.asarray(config.alphas_cumprod())
    left = 1 - jnp.arange(num_steps, dtype=jnp.float32) / num_steps
    grid = jnp.round(timestep.astype(jnp.float32) * left).astype(jnp.int32)
    alpha = alphas[grid]
    final = jnp.ones(1) if config.set_alpha_to_one else alphas[:1]
    return DDIMSteps(
        grid, alpha, jnp.concatenate([alpha[1:], final]), jnp.zeros_like(alpha)
    )


def _difference(
    chain: Chain, latents: Latents, key: PRNGKeyArray
) -> tuple[Latents, Any]:
    """The noise that a model sees in noised latents, less theirs; the next state."""
    noise, first = jr.normal(key, latents.shape, latents.dtype), jnp.asarray(0)
    state = chain.noised(latents, noise, first)
    prediction = chain.predict(state, first)
    args = (state.latents, prediction.output, chain.steps[0])
    _, predicted = chain.sampler.predict(*args)
    return predicted - noise, chain.advance(state, prediction, first)
