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


_VARIANCES = ("fixed_small", "fixed_large")


class AncestralSteps(AbstractSteps):
    r"""Holds the numbers of each step of an ancestral chain.

    **Arguments:**

    - `timestep`: What the model is told of the time.
    - `noise_scale`: $\sigma_t$, the deviation of the noise that a step adds.
    - `signal`, `sigma`: $\sqrt{\bar\alpha_t}$ and $\sqrt{1 - \bar\alpha_t}$ of its
        latents.
    - `of_clean`, `of_latents`: The weights of the clean latents and of the latents in
        the mean.
    """

    timestep: Int[Array, "*steps"]
    noise_scale: Float[Array, "*steps"]
    signal: Float[Array, "*steps"]
    sigma: Float[Array, "*steps"]
    of_clean: Float[Array, "*steps"]
    of_latents: Float[Array, "*steps"]


class Ancestral(AbstractSampler[AncestralSteps]):
    r"""Adds fresh noise at each step, as denoising diffusion probabilistic models do.

    With $\alpha = \bar\alpha_t / \bar\alpha_s$, where $s$ is the timestep visited after
    $t$ (and $\bar\alpha_s = 1$ after the last),

    $$x_s = \frac{\sqrt{\bar\alpha_s}\,(1 - \alpha)}{1 - \bar\alpha_t}\,\hat x_0
      + \frac{\sqrt\alpha\,(1 - \bar\alpha_s)}{1 - \bar\alpha_t}\,x_t + \sigma_t z$$

    The numbers are those of diffusers' `DDPMScheduler`.

    **Arguments:**

    - `config`: How the model was trained, and how timesteps are spaced;
        `set_alpha_to_one` is not asked.
    - `variance_type`: Which $\sigma_t^2$ the steps add. `"fixed_small"` is
        $(1 - \alpha)(1 - \bar\alpha_s) / (1 - \bar\alpha_t)$, right for data of one
        point, and nothing at the last step; `"fixed_large"` is $1 - \alpha$, right for
        data of unit variance. The latter adds noise at the last step too, unless that
        is timestep 0.

    ??? cite

        [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239),
        equation 7 and section 3.2.
    """

    config: SchedulerConfig = eqx.field(static=True)
    variance_type: str = eqx.field(static=True, default="fixed_small")
    takes_eta: ClassVar[bool] = False

    def __check_init__(self):
        if self.variance_type not in _VARIANCES:
            raise ValueError(
                f"`variance_type` must be one of {list(_VARIANCES)}; got "
                f"{self.variance_type!r}."
            )

    def is_random(self, eta: Real) -> bool:
        del eta
        return True

    def steps(
        self, num_inference_steps: int, eta: Real | Float[Array, ""]
    ) -> AncestralSteps:
        del eta
        timesteps = whole_timesteps(self.config, num_inference_steps)
        timesteps = np.minimum(timesteps, self.config.num_train_timesteps - 1)
        alpha_bar = self.config.alphas_cumprod()[timesteps]
        check_levels(self.config, timesteps, alpha_bar)
        alpha_bar = alpha_bar.astype(np.float64)
        prev_alpha_bar = np.append(alpha_bar[1:], 1.0)
        # From noise alone to noise alone, what is left of the signal is all of it.
        alpha = np.divide(
            alpha_bar,
            prev_alpha_bar,
            out=np.ones_like(alpha_bar),
            where=prev_alpha_bar > 0,
        )
        noise, prev_noise = 1 - alpha_bar, 1 - prev_alpha_bar
        variance = 1 - alpha
        if self.variance_type == "fixed_small":
            variance = variance * prev_noise / noise
        number = lambda x: jnp.asarray(x, jnp.float32)
        return AncestralSteps(
            timestep=jnp.asarray(timesteps, jnp.int32),
            noise_scale=number(np.where(timesteps > 0, np.sqrt(variance), 0)),
            signal=number(np.sqrt(alpha_bar)),
            sigma=number(np.sqrt(noise)),
            of_clean=number(np.sqrt(prev_alpha_bar) * (1 - alpha) / noise),
            of_latents=number(np.sqrt(alpha) * prev_noise / noise),
        )

    def predict(
        self, latents: Latents, prediction: Latents, step: AncestralSteps
    ) -> tuple[Latents, Latents]:
        pred_x0, noise_pred = unmix(
            self.config.prediction_type, latents, prediction, step.signal, step.sigma
        )
        return clip(self.config, pred_x0), noise_pred

    def update(
        self,
        latents: Latents,
        prediction: Latents,
        step: AncestralSteps,
        memory: Any = None,
    ) -> tuple[Latents, Any]:
        pred_x0, _ = self.predict(latents, prediction, step)
        return step.of_clean * pred_x0 + step.of_latents * latents, memory

    def add_noise(
        self, latents: Latents, noise: Latents, step: AncestralSteps
    ) -> Latents:
        return mix(latents, noise, step.signal, step.sigma)
