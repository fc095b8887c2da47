import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import in_halves, matmul
from ._affine import AbstractAffine, Layout


class AbstractLinear(AbstractAffine):
    """Maps the last axis of activations affinely.

    Networks hold their linear layers as this, so that something else can take the place
    of a [`draftx.layers.Linear`][].
    """

    in_features: eqx.AbstractVar[int]
    out_features: eqx.AbstractVar[int]
    is_conv: eqx.AbstractVar[bool]

    @property
    def layout(self) -> Layout:
        return "pointwise" if self.is_conv else "plain"

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (rank, self.in_features), (self.out_features, rank)

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        """Maps activations `[..., in_features]` to `[..., out_features]`.

        **Arguments:**

        - `x`: Activations; every leading axis is a batch axis.

        **Returns:**

        Activations in the dtype of `x`.
        """

    @abc.abstractmethod
    def in_halves(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
        """Maps as a call does, to the first and the last half of the outputs.

        They may be products of their own: see `draftx.kernels.in_halves`.

        **Arguments:**

        - `x`: As for a call.
        """

    @abc.abstractmethod
    def of_heads(
        self, x: Float[Array, "*batch heads head_dim"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        """Maps activations `[..., heads, head_dim]` as a call maps them merged.

        **Arguments:**

        - `x`: Features as heads, one after the other, and what is in each.
        """


class Linear(AbstractLinear):
    r"""Maps the last axis of activations by $y = W x + b$."""

    weight: Float[Array, "out_features in_features"]
    bias: Float[Array, " out_features"] | None
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    is_conv: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        is_conv: bool = False,
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `out_features`: Sizes of the last axis before and after.
        - `use_bias`: Whether to add $b$.
        - `is_conv`: Whether checkpoints store this layer as a 1x1 convolution. The
            arithmetic is the same; only the shape in the file differs.
        - `dtype`: Of the weight and the bias.
        - `key`: Used to initialize the weight.
        """
        bound = 1 / math.sqrt(in_features)
        shape = (out_features, in_features)
        self.weight = jr.uniform(key, shape, dtype, minval=-bound, maxval=bound)
        self.bias = jnp.zeros(out_features, dtype) if use_bias else None
        self.in_features = in_features
        self.out_features = out_features
        self.is_conv = is_conv

    @property
    def dtype(self) -> jnp.dtype:
        return self.weight.dtype

    @jax.named_scope("linear")
    def __call__(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        return _product(x, self.weight, self.bias)

    @jax.named_scope("linear")
    def in_halves(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
        return in_halves(_product, x, self.weight, self.bias)

    @jax.named_scope("linear")
    def of_heads(
        self, x: Float[Array, "*batch heads head_dim"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        return _product(x, in_heads(self.weight, x), self.bias)


def add_bias(y: Array, bias: Array | None) -> Array:
    """Adds a bias to a product `[..., out_features]`, if there is one.

    **Arguments:**

    - `y`: The product.
    - `bias`: One number an output, or `None`.
    """
    return y if bias is None else y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))


def in_heads(
    weight: Float[Array, "rows inputs"], x: Float[Array, "*batch heads head_dim"]
) -> Float[Array, "rows heads head_dim"]:
    """Splits the inputs of a weight, `[rows, inputs]`, as those of activations are.

    **Arguments:**

    - `weight`: One row an output.
    - `x`: The activations.
    """
    return weight.reshape(weight.shape[0], *x.shape[-2:])


def _product(x: Array, weight: Array, bias: Array | None) -> Array:
    return add_bias(matmul(x, weight), bias)
