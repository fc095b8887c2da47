import jax.numpy as jnp
from jaxtyping import Array, Float


def matmul(
    x: Float[Array, "... inputs"], weight: Float[Array, "outputs ... inputs"]
) -> Float[Array, "... outputs"]:
    """Maps the last axes of activations by a weight, `[..., *inputs]`.

    **Arguments:**

    - `x`: Activations; every axis before `inputs` is a batch axis.
    - `weight`: One row an output; `inputs` are one axis, or heads and what is in each.

    **Returns:**

    Activations `[..., outputs]`.
    """
    inputs = "i" if weight.ndim == 2 else "nh"
    return jnp.einsum(f"...{inputs},o{inputs}->...o", x, weight)
