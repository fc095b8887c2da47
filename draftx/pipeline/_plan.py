import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._custom_types import Real
from ..diffusion import AbstractLoRASchedule, AbstractSampler, AbstractSteps
from ._sampling import Sampling


class Plan(eqx.Module):
    """Holds options of sampling as a compiled program takes them, for one pipeline.

    The numbers that do not change a program's shape are arrays: other ones need no
    other program. `guidance_scale` is `None` where guidance is off.
    """

    sampler: AbstractSampler
    guidance_scale: Float[Array, ""] | None
    eta: Float[Array, ""]
    lora_schedule: AbstractLoRASchedule | None
    num_inference_steps: int = eqx.field(static=True)
    is_random: bool = eqx.field(static=True)

    def __init__(self, sampling: Sampling, sampler: AbstractSampler, eta: Real):
        """**Arguments:**

        - `sampling`: What a user chose.
        - `sampler`: Of these, or of the pipeline.
        - `eta`: Of these, or of a method that needs noise.
        """
        scale = sampling.guidance_scale
        self.sampler = sampler
        self.guidance_scale = (
            jnp.asarray(scale, jnp.float32) if sampling.is_guided else None
        )
        self.eta = jnp.asarray(eta, jnp.float32)
        self.lora_schedule = sampling.lora_schedule
        self.num_inference_steps = sampling.num_inference_steps
        self.is_random = sampler.is_random(eta)

    def steps(self) -> AbstractSteps:
        """Computes the numbers of all steps of the chain."""
        return self.sampler.steps(self.num_inference_steps, eta=self.eta)
