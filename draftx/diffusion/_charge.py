"""What differentiated steps of a chain are charged, such as leaving a base model."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._custom_types import Latents
from ._denoiser import AbstractDenoiser


class Charge(eqx.Module):
    """Sums what predictions were charged, and counts them.

    **Arguments:**

    - `total`: The sum for each image.
    - `count`: How many predictions were charged.
    """

    total: Float[Array, "*steps batch"]
    count: Float[Array, "*steps"]

    @classmethod
    def nothing(cls, latents: Latents) -> "Charge":
        """Makes the charge of no prediction."""
        dtype = latents.dtype
        return cls(jnp.zeros(latents.shape[0], dtype), jnp.zeros((), dtype))

    @classmethod
    def once(cls, charged: Float[Array, " batch"]) -> "Charge":
        """Makes the charge of one prediction."""
        return cls(charged, jnp.ones((), charged.dtype))

    def mean(self) -> Float[Array, ""]:
        """Averages over predictions and images; zero for no prediction."""
        return jnp.mean(self.total) / jnp.maximum(self.count, 1)


class AbstractStepCost(eqx.Module):
    """Charges the differentiated steps of a chain, image by image."""

    @abc.abstractmethod
    def __call__(
        self,
        denoiser: AbstractDenoiser,
        latents: Latents,
        output: Latents,
        index: Int[Array, ""],
    ) -> Float[Array, " batch"]:
        """Charges one prediction.

        **Arguments:**

        - `denoiser`: The model that is trained.
        - `latents`, `output`: What it was asked about, and what it said.
        - `index`: Of the step in the chain.
        """


def add(charge: Charge | None, other: Charge | None) -> Charge | None:
    """Adds up two charges; `None`, where nothing is charged, stays so."""
    if charge is None or other is None:
        return None
    return Charge(charge.total + other.total, charge.count + other.count)
