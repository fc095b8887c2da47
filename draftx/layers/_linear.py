import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import in_halves, matmul, target_device
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
    def product(self, x: Float[Array, "..."]) -> Float[Array, "... outputs"]:
        """Maps as a call does, by arrays as they are.

        What a call leaves open: their inputs may be one axis, or heads and what is in
        each, as the last axes of `x` then are; their outputs some of all.

        **Arguments:**

        - `x`: Activations.
        """

    @abc.abstractmethod
    def by_outputs(self) -> list[Any]:
        """Lists the arrays that have one row for each output."""

    @abc.abstractmethod
    def by_inputs(self) -> list[Any]:
        """Lists the arrays whose last axis counts the inputs."""

    def __call__(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        """Maps activations `[..., in_features]` to `[..., out_features]`.

        **Arguments:**

        - `x`: Activations; every leading axis is a batch axis.

        **Returns:**

        Activations in the dtype of `x`.
        """
        return self.product(x)

    def in_halves(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> tuple[Float[Array, "*batch half"], Float[Array, "*batch half"]]:
        """Maps as a call does, to the first and the last half of the outputs.

        They may be products of their own: see `draftx.kernels.in_halves`.

        **Arguments:**

        - `x`: As for a call.
        """
        by_outputs = type(self).by_outputs

        def product(x: Array, *rows: Array) -> Array:
            return eqx.tree_at(by_outputs, self, list(rows)).product(x)

        return in_halves(product, x, *by_outputs(self))

    def of_heads(
        self, x: Float[Array, "*batch heads head_dim"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        """Maps activations `[..., heads, head_dim]` as a call maps them merged.

        **Arguments:**

        - `x`: Features as heads, one after the other, and what is in each.
        """
        if target_device().platform != "tpu":
            return self.product(x.reshape(*x.shape[:-2], -1))
        # Heads narrower than its lanes: there merging them is a copy.
        by_inputs = type(self).by_inputs
        split = [a.reshape(*a.shape[:-1], *x.shape[-2:]) for a in by_inputs(self)]
        return eqx.tree_at(by_inputs, self, split).product(x)


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
    def product(self, x: Float[Array, "..."]) -> Float[Array, "... outputs"]:
        return self.add_bias(matmul(x, self.weight))

    def by_outputs(self) -> list[Any]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def by_inputs(self) -> list[Any]:
        return [self.weight]

    def add_bias(self, y: Float[Array, "... outputs"]) -> Float[Array, "... outputs"]:
        """Adds the bias to a product `[..., outputs]`, if there is one.

        **Arguments:**

        - `y`: The product.
        """
        if self.bias is None:
            return y
        return y + jnp.expand_dims(self.bias, tuple(range(y.ndim - 1)))
