"""Products of 16-bit numbers on a CPU, which computes them in float32."""

from collections.abc import Callable

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._device import target_device


def widened(
    product: Callable[[Array, Array], Array],
    x: Float[Array, "..."],
    weight: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Computes a product of activations and a weight, both in float32 on a CPU.

    A CPU has no product of 16-bit numbers, so XLA widens what it is given. A wide copy
    of a weight is then shared by all of its products, forwards and backwards and in all
    steps, and kept until the last of them: for Stable Diffusion 3 GiB, twice what the
    narrow weights are. Here it is a copy for one product, which has to wait for the
    activations.

    **Arguments:**

    - `product`: Of two arrays; its gradient is not taken through here.
    - `x`, `weight`: Its operands.

    **Returns:**

    The product, in the dtype of `x`.
    """
    is_narrow = x.dtype.itemsize < 4 and weight.dtype.itemsize < 4
    if not is_narrow or target_device().platform != "cpu":
        return product(x, weight)
    x, weight = lax.optimization_barrier((x, weight))
    dtype = x.dtype
    return product(x.astype(jnp.float32), weight.astype(jnp.float32)).astype(dtype)
