"""Fine-tunes with a sampler of one's own, which remembers the step before."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

import draftx
from draftx.diffusion import AbstractSampler, Euler, EulerSteps, mix, SchedulerConfig


class AdamsBashforth(AbstractSampler[EulerSteps]):
    r"""Extrapolates the predicted noise from two steps, $\epsilon' =
    \frac32 \hat\epsilon_t - \frac12 \hat\epsilon_{t+1}$; the first step is Euler's."""

    config: SchedulerConfig = eqx.field(static=True)
    takes_eta = False

    def is_random(self, eta):
        return False

    def steps(self, num_inference_steps, eta):
        return Euler(self.config).steps(num_inference_steps, 0.0)

    def predict(self, latents, prediction, step):
        return Euler(self.config).predict(latents, prediction, step)

    def add_noise(self, latents, noise, step):
        return Euler(self.config).add_noise(latents, noise, step)

    def memory(self, latents):
        return jnp.zeros_like(latents), jnp.zeros(())  # The noise, and whether it is.

    def update(self, latents, prediction, step, memory=None):
        clean, noise = self.predict(latents, prediction, step)
        before, is_known = memory
        between = noise + is_known * (noise - before) / 2
        # The latents are clean + ratio * noise: so are they with the other noise.
        clean = clean + step.sigma / step.signal * (noise - between)
        latents = mix(clean, between, step.prev_signal, step.prev_sigma)
        return latents, (noise, jnp.ones(()))


def main(num_train_steps: int = 20, num_inference_steps: int = 5) -> None:
    pipeline = draftx.add_lora(draftx.load("tiny"), rank=4, key=jr.key(0))
    result = draftx.finetune(
        pipeline,
        draftx.rewards.RotationAntiCorrelation(),
        ["a fox, 3d style", "a cat, flat style"],
        draftx.Sampling(num_inference_steps, 4.0, sampler=AdamsBashforth),
        method=draftx.DRaFT(truncation_steps=2),
        key=jr.key(1),
        num_train_steps=num_train_steps,
        batch_size=2,
    )
    print([round(row["reward"], 4) for row in result.history])


if __name__ == "__main__":
    main()
