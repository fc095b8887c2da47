from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._custom_types import Latents, Real
from ._interpolant import check_levels, mix, unmix
from ._sampler import AbstractSampler, AbstractSteps
from ._schedule import SchedulerConfig
from ._spacing import spaced_timesteps


# In place of no signal at all, as in diffusers: float16's smallest number.
_LEAST_SIGNAL = 2.0**-24


class EulerSteps(AbstractSteps):
    r"""Holds the numbers of each step of Euler's method.

    **Arguments:**

    - `timestep`: What the model is told of the time.
    - `noise_scale`: Zero: no step adds noise.
    - `signal`, `sigma`: $\alpha$ and $\sigma$ of the latents of a step.
    - `prev_signal`, `prev_sigma`: Those of the latents after it.
    """

    timestep: Float[Array, "*steps"]
    noise_scale: Float[Array, "*steps"]
    signal: Float[Array, "*steps"]
    sigma: Float[Array, "*steps"]
    prev_signal: Float[Array, "*steps"]
    prev_sigma: Float[Array, "*steps"]


class Euler(AbstractSampler[EulerSteps]):
    r"""Follows a diffusion model's differential equation by Euler's method.

    Over $s = \sigma / \alpha$, a step from $s$ to $s'$ goes along a straight line, from
    $\bar x = \hat x_0 + s\,\hat\epsilon$ to $\bar x + (s' - s)\,\hat\epsilon$. The same
    step, written for latents of any signal and noise,

    $$x' = \alpha' \hat x_0 + \sigma' \hat\epsilon$$

    Here these are those of a model that keeps the variance, $\alpha^2 + \sigma^2 = 1$.
    The model sees the same latents as with diffusers' `EulerDiscreteScheduler`. Where a
    timestep of `linspace` spacing lies between two of the training's, the model is told
    the fraction, and $s$ is interpolated.

    **Arguments:**

    - `config`: How the model was trained, and how timesteps are spaced;
        `set_alpha_to_one` and `clip_sample` are not asked: chains end without noise.
        With `rescale_betas_zero_snr` the last timestep keeps a signal of variance
        $2^{-24}$, as in diffusers.

    ??? cite

        [Elucidating the Design Space of Diffusion-Based Generative
        Models](https://arxiv.org/abs/2206.00364), algorithm 1 without its second order
        and with $\sigma$ for time.
    """

    config: SchedulerConfig = eqx.field(static=True)
    takes_eta: ClassVar[bool] = False

    def is_random(self, eta: Real) -> bool:
        del eta
        return False

    def steps(
        self, num_inference_steps: int, eta: Real | Float[Array, ""]
    ) -> EulerSteps:
        del eta
        timesteps = spaced_timesteps(self.config, num_inference_steps)
        timesteps = timesteps.astype(np.float32)
        alpha_bar = self.config.alphas_cumprod()
        if self.config.rescale_betas_zero_snr:
            alpha_bar[-1] = _LEAST_SIGNAL
        for side in (np.floor(timesteps), np.ceil(timesteps)):
            visited = np.minimum(side, len(alpha_bar) - 1).astype(np.int64)
            check_levels(self.config, visited, alpha_bar[visited], by_ratio=True)
        alpha_bar = alpha_bar.astype(np.float64)
        # Where there is no signal no chain gets; an infinite ratio would spread.
        ratios = np.sqrt((1 - alpha_bar) / np.where(alpha_bar > 0, alpha_bar, 1))
        # Beyond the last of the training's timesteps, the noise is that of the last.
        ratios = np.interp(timesteps, np.arange(len(ratios)), ratios)
        ratios = np.append(ratios, 0.0)
        signal = 1 / np.sqrt(1 + ratios**2)
        signal, sigma = (jnp.asarray(x, jnp.float32) for x in (signal, ratios * signal))
        return EulerSteps(
            timestep=jnp.asarray(timesteps),
            noise_scale=jnp.zeros(num_inference_steps, jnp.float32),
            signal=signal[:-1],
            sigma=sigma[:-1],
            prev_signal=signal[1:],
            prev_sigma=sigma[1:],
        )

    def start(self, noise: Latents, steps: EulerSteps) -> Latents:
        # As in diffusers: with `leading` spacing the noise stands for latents whose
        # signal is too small to matter, with the others for their noise alone.
        if self.config.timestep_spacing == "leading":
            return noise
        return steps.sigma[0] * noise

    def predict(
        self, latents: Latents, prediction: Latents, step: EulerSteps
    ) -> tuple[Latents, Latents]:
        return unmix(
            self.config.prediction_type, latents, prediction, step.signal, step.sigma
        )

    def update(
        self,
        latents: Latents,
        prediction: Latents,
        step: EulerSteps,
        memory: Any = None,
    ) -> tuple[Latents, Any]:
        pred_x0, noise_pred = self.predict(latents, prediction, step)
        return mix(pred_x0, noise_pred, step.prev_signal, step.prev_sigma), memory

    def add_noise(self, latents: Latents, noise: Latents, step: EulerSteps) -> Latents:
        return mix(latents, noise, step.signal, step.sigma)
