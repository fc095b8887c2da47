import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Num, PRNGKeyArray

from .._custom_types import Real
from ._linear import AbstractLinear, Linear


def sinusoidal_embedding(
    timesteps: Num[Array, " batch"],
    features: int,
    *,
    flip_sin_to_cos: bool = True,
    freq_shift: Real = 0,
    max_period: Real = 10_000,
) -> Float[Array, "batch features"]:
    """Computes sines and cosines of timesteps, `[batch, features]` in float32.

    Their frequencies are geometrically spaced.

    **Arguments:**

    - `timesteps`: Training timesteps.
    - `features`: Size of the last axis; must be even.
    - `flip_sin_to_cos`: Whether the cosines come first, as in Stable Diffusion.
    - `freq_shift`: 1 spaces the frequencies so that the last is `1 / max_period`.
    - `max_period`: The longest period, over two pi.
    """
    if features % 2 != 0:
        raise ValueError(f"`features` must be even; got {features}.")
    half = features // 2
    exponent = -math.log(max_period) / (half - freq_shift)
    frequencies = jnp.exp(exponent * jnp.arange(half, dtype=jnp.float32))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([cos, sin] if flip_sin_to_cos else [sin, cos], axis=-1)


class TimestepEmbedding(eqx.Module):
    """Turns sinusoids into what residual blocks are given, by two linear layers."""

    linear_1: AbstractLinear
    linear_2: AbstractLinear

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: Of the sinusoids.
        - `features`: Of what residual blocks are given.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        key_1, key_2 = jr.split(key)
        self.linear_1 = Linear(in_features, features, dtype=dtype, key=key_1)
        self.linear_2 = Linear(features, features, dtype=dtype, key=key_2)

    @jax.named_scope("timestep_embedding")
    def __call__(
        self, x: Float[Array, "batch in_features"]
    ) -> Float[Array, "batch features"]:
        """Maps sinusoids `[batch, in_features]` to `[batch, features]`."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))
