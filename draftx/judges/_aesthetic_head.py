"""What turns an embedding into a rating."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..layers import AbstractLinear, Linear


class AestheticHead(eqx.Module):
    """Rates embeddings by five linear layers one after the other.

    Nothing is in between; dropout was, in training. The published weights were trained
    so, and only so do they give their scores: an activation would change them.
    """

    linears: list[AbstractLinear]

    def __init__(
        self,
        features: int = 768,
        *,
        widths: tuple[int, ...] = (1024, 128, 64, 16),
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `features`: Size of an embedding.
        - `widths`: Sizes between the layers.
        - `dtype`: Of the weights.
        - `key`: Used to initialize the weights.
        """
        sizes = (features, *widths, 1)
        self.linears = [
            Linear(inputs, outputs, dtype=dtype, key=k)
            for inputs, outputs, k in zip(
                sizes[:-1], sizes[1:], jr.split(key, len(sizes) - 1), strict=True
            )
        ]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the weights, in which ratings are computed."""
        return self.linears[0].dtype

    @jax.named_scope("draftx.aesthetic_head")
    def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, " batch"]:
        """Rates embeddings `[batch, features]`."""
        for linear in self.linears:
            x = linear(x)
        return x[:, 0]
