"""A product whose outputs are wanted in two halves: whole, apart or stacked."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._choice import resolve
from ._device import target_device


_IMPLEMENTATIONS = ("whole", "apart", "stacked")
# Outputs from which a TPU has no room for both halves in its fast memory.
_LARGE = 2**25


def choose_halves(rows: int, outputs: int) -> str:
    """Chooses how a product gives its outputs in halves on the device compiled for.

    A TPU writes both halves in float32 to memory and reads them again, unless they are
    products of their own: see the notebook of the benchmarks.

    **Arguments:**

    - `rows`: Of activations.
    - `outputs`: Both halves.

    **Returns:**

    `"whole"`, `"apart"` or `"stacked"`.
    """
    if target_device().platform != "tpu":
        return "whole"
    return "apart" if rows * outputs >= _LARGE else "stacked"


def in_halves(
    product: Callable[..., Array],
    x: Float[Array, "*batch features"],
    *rows: Array,
    implementation: str | None = None,
) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
    """Makes `product(x, *rows)`, and gives the first and the last half of its outputs.

    **Arguments:**

    - `product`: Maps activations by arrays that have a row for each output.
    - `x`: Activations; every leading axis is a batch axis.
    - `rows`: These arrays.
    - `implementation`: `None` chooses by `choose_halves`, or
        - `"whole"`: one product, then split;
        - `"apart"`: two products;
        - `"stacked"`: one product of two matrices, its halves along a first axis.

    **Returns:**

    Two arrays `[..., half]`.
    """
    outputs = len(rows[0])
    chosen = resolve(
        implementation,
        _IMPLEMENTATIONS,
        choose=lambda: choose_halves(math.prod(x.shape[:-1]), outputs),
        refusal=lambda name: None,
    )
    if chosen == "whole":
        first, last = jnp.split(product(x, *rows), 2, axis=-1)
        return first, last
    if chosen == "apart":
        first, last = zip(*(jnp.split(r, 2) for r in rows), strict=True)
        return product(x, *first), product(x, *last)
    halves = [r.reshape(2, len(r) // 2, *r.shape[1:]) for r in rows]
    stacked = jax.vmap(lambda halves: product(x, *halves))(halves)
    return stacked[0], stacked[1]
