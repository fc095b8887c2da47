import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._custom_types import Latents, Real
from ._schedule import SchedulerConfig


class DDIMSteps(eqx.Module):
    """The numbers that each step of a chain needs, noisiest step first.

    Rows are what a `lax.scan` over the chain hands to its body.
    """

    timestep: Int[Array, "*steps"]
    alpha: Float[Array, "*steps"]
    prev_alpha: Float[Array, "*steps"]
    noise_scale: Float[Array, "*steps"]

    def __getitem__(self, index) -> "DDIMSteps":
        """One step, or a part of the chain."""
        return DDIMSteps(
            self.timestep[index],
            self.alpha[index],
            self.prev_alpha[index],
            self.noise_scale[index],
        )

    def __len__(self) -> int:
        return self.timestep.shape[0]


class DDIM(eqx.Module):
    r"""Denoising diffusion implicit models, with the noise level $\eta$.

    $$x_{t-1} = \sqrt{\bar\alpha_{t-1}}\,\hat x_0
      + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\,\hat\epsilon + \sigma_t z$$

    With $\eta = 1$ and `set_alpha_to_one` this is ancestral sampling, DDPM with the
    smaller of its two variances (`fixed_small` in diffusers).

    ??? cite

        [DDIM](https://arxiv.org/abs/2010.02502), equations 12 and 16.
    """

    config: SchedulerConfig = eqx.field(static=True)

    def timesteps(self, num_inference_steps: int) -> Int[np.ndarray, " steps"]:
        """The training timesteps visited, noisiest first."""
        grid = self._grid(num_inference_steps)
        return np.minimum(grid, self.config.num_train_timesteps - 1).astype(np.int32)

    def _grid(self, num_inference_steps: int) -> Int[np.ndarray, " steps"]:
        """`timesteps`, before what lies beyond the schedule is moved to its end.

        Nothing does but the first step of `leading` spacing with an offset and as many
        steps as there are: from the end to the end, it changes nothing.
        """
        train = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= train:
            raise ValueError(
                f"`num_inference_steps` must lie in [1, {train}]; got "
                f"{num_inference_steps}."
            )
        spacing, offset = self.config.timestep_spacing, self.config.steps_offset
        if spacing == "leading":
            steps = np.arange(num_inference_steps) * (train // num_inference_steps)
            steps = steps[::-1] + offset
        elif spacing == "trailing":
            stride = train / num_inference_steps
            # By rounding, a stride such as 1000 / 61 fits in once more than it should.
            steps = np.arange(train, 0, -stride)[:num_inference_steps]
            steps = np.round(steps) - 1
        else:
            steps = np.round(np.linspace(0, train - 1, num_inference_steps))[::-1]
        return steps.astype(np.int64)

    def steps(
        self, num_inference_steps: int, *, eta: Real | Float[Array, ""] = 0.0
    ) -> DDIMSteps:
        r"""**Arguments:**

        - `num_inference_steps`: $T$, at least 1 and at most the training timesteps.
        - `eta`: $\eta$; 0 is deterministic, 1 is the ancestral sampler.
        """
        timesteps = self.timesteps(num_inference_steps)
        alphas = self.config.alphas_cumprod()
        final = np.float32(1) if self.config.set_alpha_to_one else alphas[0]
        stride = self.config.num_train_timesteps // num_inference_steps
        prev = self._grid(num_inference_steps) - stride
        alpha = alphas[timesteps]
        prev_alpha = np.where(prev >= 0, alphas[np.maximum(prev, 0)], final)
        variance = (1 - prev_alpha) / (1 - alpha) * (1 - alpha / prev_alpha)
        scale = np.sqrt(np.maximum(variance, 0)).astype(np.float32)
        return DDIMSteps(
            jnp.asarray(timesteps),
            jnp.asarray(alpha),
            jnp.asarray(prev_alpha),
            jnp.asarray(scale) * jnp.asarray(eta, jnp.float32),
        )

    def predict(
        self, latents: Latents, prediction: Latents, step: DDIMSteps
    ) -> tuple[Latents, Latents]:
        r"""The clean latents $\hat x_0$ and the noise $\hat\epsilon$ that a prediction
        of the model means at one step."""
        signal, noise = jnp.sqrt(step.alpha), jnp.sqrt(1 - step.alpha)
        match self.config.prediction_type:
            case "epsilon":
                pred_x0 = (latents - noise * prediction) / signal
                noise_pred = prediction
            case "sample":
                pred_x0 = prediction
                noise_pred = (latents - signal * prediction) / noise
            case _:
                pred_x0 = signal * latents - noise * prediction
                noise_pred = signal * prediction + noise * latents
        if self.config.clip_sample:
            limit = self.config.clip_sample_range
            pred_x0 = jnp.clip(pred_x0, -limit, limit)
        return pred_x0, noise_pred

    def step(
        self,
        latents: Latents,
        prediction: Latents,
        step: DDIMSteps,
        noise: Latents | None = None,
    ) -> Latents:
        """One update of the chain.

        **Arguments:**

        - `latents`: At the step's timestep.
        - `prediction`: The model's output there.
        - `step`: One row of `steps`.
        - `noise`: Unit Gaussian, or `None` for a chain with `eta=0`.

        **Returns:**

        The latents at the next, less noisy, timestep.
        """
        pred_x0, noise_pred = self.predict(latents, prediction, step)
        scale = step.noise_scale if noise is not None else jnp.zeros_like(step.alpha)
        direction = jnp.sqrt(jnp.maximum(1 - step.prev_alpha - scale**2, 0))
        latents = jnp.sqrt(step.prev_alpha) * pred_x0 + direction * noise_pred
        return latents if noise is None else latents + scale * noise

    def add_noise(self, latents: Latents, noise: Latents, step: DDIMSteps) -> Latents:
        r"""Clean latents noised to one step: $\sqrt{\bar\alpha_t}\,x_0 +
        \sqrt{1 - \bar\alpha_t}\,\epsilon$."""
        return jnp.sqrt(step.alpha) * latents + jnp.sqrt(1 - step.alpha) * noise
