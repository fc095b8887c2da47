"""What a sampler is: the interface that a chain asks at each of its steps."""

import abc
from typing import Any, Generic, TYPE_CHECKING, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Num

from .._custom_types import Latents, Real
from ._schedule import SchedulerConfig


if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar
else:
    from equinox import AbstractClassVar


Steps = TypeVar("Steps", bound="AbstractSteps")


class AbstractSteps(eqx.Module):
    """Holds the numbers of each step of a chain, noisiest step first.

    `timestep` is what the model is told of the time, and `noise_scale` the standard
    deviation of the noise that a step adds; a sampler has more. Indexing gives one
    step, which is what a sampler is handed, or a part of the chain.
    """

    timestep: eqx.AbstractVar[Num[Array, "*steps"]]
    noise_scale: eqx.AbstractVar[Float[Array, "*steps"]]

    def __getitem__(self: Steps, index: Any) -> Steps:
        return jax.tree.map(lambda numbers: numbers[index], self)

    def __len__(self) -> int:
        return self.timestep.shape[0]


class AbstractSampler(eqx.Module, Generic[Steps]):
    r"""Turns noise into clean latents, step by step.

    `config` describes how the model was trained. Latents lie at every step between
    signal and noise, $x_t = \alpha_t x_0 + \sigma_t \epsilon$; a sampler says how to
    go on from what the model predicts. A new one is one file, of its own steps:
    `class Mine(AbstractSampler[MySteps])`.
    """

    config: eqx.AbstractVar[SchedulerConfig]
    # Whether `eta` means something to it.
    takes_eta: AbstractClassVar[bool]

    @abc.abstractmethod
    def steps(self, num_inference_steps: int, eta: Real | Float[Array, ""]) -> Steps:
        r"""Computes the numbers of all steps of a chain, as constants.

        **Arguments:**

        - `num_inference_steps`: $T$, from 1 to the training timesteps; anything else is
            a `ValueError`.
        - `eta`: How much noise the steps add, from 0 to 1, for samplers that take it.
        """

    @abc.abstractmethod
    def is_random(self, eta: Real) -> bool:
        """Says whether its steps add noise, with this `eta`."""

    @abc.abstractmethod
    def update(
        self,
        latents: Latents,
        prediction: Latents,
        step: Steps,
        memory: Any = None,
    ) -> tuple[Latents, Any]:
        """Moves latents to the next, less noisy step; the mean where noise is added.

        **Arguments:**

        - `latents`: At this step.
        - `prediction`: The model's output there: noise, sample or velocity, as
            `config.prediction_type` says.
        - `step`: One row of `steps`.
        - `memory`: What the step before handed on.

        **Returns:**

        The latents, to which a chain adds `step.noise_scale` times Gaussian noise, and
        the memory for the step after.
        """

    @abc.abstractmethod
    def predict(
        self, latents: Latents, prediction: Latents, step: Steps
    ) -> tuple[Latents, Latents]:
        r"""Computes the clean latents and the noise that a prediction means.

        These are $\hat x_0$ and $\hat\epsilon$, in this order.

        **Arguments:**

        - `latents`, `prediction`, `step`: As for `update`.
        """

    @abc.abstractmethod
    def add_noise(self, latents: Latents, noise: Latents, step: Steps) -> Latents:
        r"""Noises clean latents to one step: $\alpha_t x_0 + \sigma_t \epsilon$.

        **Arguments:**

        - `latents`, `noise`: $x_0$ and $\epsilon$.
        - `step`: One row of `steps`.
        """

    def start(self, noise: Latents, steps: Steps) -> Latents:
        """Makes the first latents of unit-variance noise.

        They are the noise itself, unless the sampler has its own.

        **Arguments:**

        - `noise`: Unit-variance.
        - `steps`: Of the chain.
        """
        del steps
        return noise

    def memory(self, latents: Latents) -> Any:
        """Makes the memory before the first step: arrays, or `None` for none."""
        del latents
        return None
