"""The noise that a chain adds at its steps."""

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from .._custom_types import Latents


class Part(eqx.Module):
    """Says which rows of a larger batch a chain draws: its noise is that of these rows.

    **Arguments:**

    - `rows`: Their indices.
    - `total`: How many the larger batch has.
    """

    rows: Int[Array, " batch"]
    total: int = eqx.field(static=True)


def step_noise(
    key: PRNGKeyArray,
    index: Int[Array, ""],
    latents: Latents,
    part: Part | None = None,
) -> Latents:
    """Draws the unit-variance noise that a chain adds at one step.

    **Arguments:**

    - `key`: Of the chain.
    - `index`: Of the step.
    - `latents`: Whose shape and dtype the noise has.
    - `part`: Of the larger batch that they are rows of, if they are.
    """
    size = len(latents) if part is None else part.total
    shape = (size, *latents.shape[1:])
    noise = jr.normal(jr.fold_in(key, index), shape, latents.dtype)
    return noise if part is None else noise[part.rows]
