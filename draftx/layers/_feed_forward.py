import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import choose_halves, geglu, geglu_of_halves
from ._linear import AbstractLinear, Linear


class GEGLUFeedForward(eqx.Module):
    r"""Maps features to features by the gated layer of a transformer block.

    $$W_o \big((W_1 x) \odot \mathrm{gelu}(W_2 x)\big)$$

    with $W_1$ and $W_2$ stored as one projection, and the exact GELU.

    ??? cite

        [GLU Variants Improve Transformer](https://arxiv.org/abs/2002.05202)
    """

    proj_in: AbstractLinear
    proj_out: AbstractLinear

    def __init__(
        self,
        features: int,
        *,
        expansion: int = 4,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `features`: Of the input and of the output.
        - `expansion`: How many times as many features there are in between.
        - `dtype`: Of all weights.
        - `key`: Used to initialize the weights.
        """
        ikey, okey = jr.split(key)
        inner = expansion * features
        self.proj_in = Linear(features, 2 * inner, dtype=dtype, key=ikey)
        self.proj_out = Linear(inner, features, dtype=dtype, key=okey)

    @jax.named_scope("feed_forward")
    def __call__(
        self, x: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch features"]:
        """Maps `[..., features]` to `[..., features]`."""
        rows, outputs = math.prod(x.shape[:-1]), self.proj_in.out_features
        if choose_halves(rows, outputs) == "whole":
            return self.proj_out(geglu(self.proj_in(x)))
        return self.proj_out(geglu_of_halves(*self.proj_in.in_halves(x)))
