from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._custom_types import Latents, Real
from ._interpolant import check_levels, clip, mix, unmix
from ._sampler import AbstractSampler, AbstractSteps
from ._schedule import SchedulerConfig
from ._spacing import whole_timesteps


class DDIMSteps(AbstractSteps):
    r"""Holds the numbers of each step of a DDIM chain.

    **Arguments:**

    - `timestep`: What the model is told of the time.
    - `alpha`, `prev_alpha`: $\bar\alpha_t$ and $\bar\alpha_{t-1}$, the signal variances
        of the latents of a step and of those after it.
    - `noise_scale`: $\sigma_t$, the deviation of the noise that a step adds.
    """

    timestep: Int[Array, "*steps"]
    alpha: Float[Array, "*steps"]
    prev_alpha: Float[Array, "*steps"]
    noise_scale: Float[Array, "*steps"]


class DDIM(AbstractSampler[DDIMSteps]):
    r"""Follows denoising diffusion implicit models, with the noise level $\eta$.

    $$x_{t-1} = \sqrt{\bar\alpha_{t-1}}\,\hat x_0
      + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\,\hat\epsilon + \sigma_t z$$

    With $\eta = 1$ and `set_alpha_to_one` this is ancestral sampling, DDPM with the
    smaller of its two variances (`fixed_small` in diffusers), where the strides between
    timesteps are equal. The numbers are those of diffusers' `DDIMScheduler`.

    **Arguments:**

    - `config`: How the model was trained, how timesteps are spaced, and how chains end
        (`set_alpha_to_one`).

    ??? cite

        [DDIM](https://arxiv.org/abs/2010.02502), equations 12 and 16.
    """

    config: SchedulerConfig = eqx.field(static=True)
    takes_eta: ClassVar[bool] = True

    def is_random(self, eta: Real) -> bool:
        return eta > 0

    def steps(
        self, num_inference_steps: int, eta: Real | Float[Array, ""]
    ) -> DDIMSteps:
        grid = whole_timesteps(self.config, num_inference_steps)
        # From beyond the schedule's end to the end, a step changes nothing.
        timesteps = np.minimum(grid, self.config.num_train_timesteps - 1)
        alphas = self.config.alphas_cumprod()
        final = np.float32(1) if self.config.set_alpha_to_one else alphas[0]
        stride = self.config.num_train_timesteps // num_inference_steps
        prev = grid - stride
        alpha = alphas[timesteps]
        check_levels(self.config, timesteps, alpha)
        prev_alpha = np.where(prev >= 0, alphas[np.maximum(prev, 0)], final)
        # From noise alone to noise alone, what is left of the signal is all of it.
        kept = np.divide(
            alpha, prev_alpha, out=np.ones_like(alpha), where=prev_alpha > 0
        )
        variance = (1 - prev_alpha) / (1 - alpha) * (1 - kept)
        scale = np.sqrt(np.maximum(variance, 0)).astype(np.float32)
        return DDIMSteps(
            jnp.asarray(timesteps, jnp.int32),
            jnp.asarray(alpha),
            jnp.asarray(prev_alpha),
            jnp.asarray(scale) * jnp.asarray(eta, jnp.float32),
        )

    def predict(
        self, latents: Latents, prediction: Latents, step: DDIMSteps
    ) -> tuple[Latents, Latents]:
        signal, noise = jnp.sqrt(step.alpha), jnp.sqrt(1 - step.alpha)
        pred_x0, noise_pred = unmix(
            self.config.prediction_type, latents, prediction, signal, noise
        )
        return clip(self.config, pred_x0), noise_pred

    def update(
        self,
        latents: Latents,
        prediction: Latents,
        step: DDIMSteps,
        memory: Any = None,
    ) -> tuple[Latents, Any]:
        pred_x0, noise_pred = self.predict(latents, prediction, step)
        rest = jnp.maximum(1 - step.prev_alpha - step.noise_scale**2, 0)
        signal, noise = jnp.sqrt(step.prev_alpha), jnp.sqrt(rest)
        return mix(pred_x0, noise_pred, signal, noise), memory

    def add_noise(self, latents: Latents, noise: Latents, step: DDIMSteps) -> Latents:
        return mix(latents, noise, jnp.sqrt(step.alpha), jnp.sqrt(1 - step.alpha))
