import jax.numpy as jnp
from jaxtyping import Array, Float


def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Takes the square root, with derivative zero at zero."""
    is_positive = x > 0
    # The inner `where` keeps the infinite slope out of the chain rule: 0 * inf is nan.
    root = jnp.sqrt(jnp.where(is_positive, x, jnp.ones_like(x)))
    return jnp.where(is_positive, root, jnp.zeros_like(x))
