"""Layers that wrap a linear layer and add a low-rank update to what it computes."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..kernels import lora_matmul, matmul
from ..layers import AbstractLinear, Linear
from ._interface import AbstractLoRA, with_added


class LoRALinear(AbstractLinear, AbstractLoRA):
    r"""Maps the last axis of activations by a frozen layer and a low-rank update.

    $$y = W x + b + \frac{\alpha}{r} U D x$$

    The update is computed in the dtype of `x`: a bfloat16 base may carry float32
    factors.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), equation 3.
    """

    base: Linear
    lora_down: Float[Array, "rank in_features"]
    lora_up: Float[Array, "out_features rank"]
    lora_scale: Float[Array, ""] | None
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    is_conv: bool = eqx.field(static=True)
    rank_axis: ClassVar[int] = 0

    def __init__(
        self,
        base: Linear,
        lora_down: Float[Array, "rank in_features"],
        lora_up: Float[Array, "out_features rank"],
        lora_scale: Float[Array, ""] | None = None,
    ):
        r"""**Arguments:**

        - `base`: The layer that is adapted, with $W$ and $b$.
        - `lora_down`: $D$, `[rank, in_features]`.
        - `lora_up`: $U$, `[out_features, rank]`.
        - `lora_scale`: $\alpha / r$; `None` is 1.
        """
        self.base = base
        self.lora_down = lora_down
        self.lora_up = lora_up
        self.lora_scale = lora_scale
        self.in_features = base.in_features
        self.out_features = base.out_features
        self.is_conv = base.is_conv

    @property
    def dtype(self) -> jnp.dtype:
        return self.base.dtype

    @jax.named_scope("lora")
    def product(self, x: Float[Array, "..."]) -> Float[Array, "... outputs"]:
        y = matmul(x, self.base.weight)
        down, up = self.lora_down.astype(x.dtype), self.lora_up.astype(x.dtype)
        update = matmul(matmul(x, down), up)
        if self.lora_scale is not None:
            update = self.lora_scale.astype(x.dtype) * update
        return self.base.add_bias(y + update)

    def by_outputs(self) -> list[Any]:
        return [*self.base.by_outputs(), self.lora_up]

    def by_inputs(self) -> list[Any]:
        return [*self.base.by_inputs(), self.lora_down]

    def update(self) -> Float[Array, "out_features in_features"]:
        r"""Computes what is added to the weight, $\frac{\alpha}{r} U D$."""
        update = self.lora_up @ self.lora_down
        return update if self.lora_scale is None else self.lora_scale * update

    def premerged(self) -> "PremergedLinear":
        """Adds the update to the weight once for many calls, and stays trainable."""
        merged = with_added(self.base, lax.stop_gradient(self.update()))
        return PremergedLinear(merged, self.lora_down, self.lora_up, self.lora_scale)


class PremergedLinear(AbstractLinear):
    r"""Maps the last axis of activations by a weight that contains a low-rank update.

    Values and gradients are those of the [`draftx.lora.LoRALinear`][] that it was made
    from, up to one rounding to the weight's dtype; a call costs one matrix product, and
    the backward pass reaches `lora_down` and `lora_up` without ever forming the
    gradient of the weight. Not for storing: the weight does not follow later changes of
    the adapter.
    """

    base: Linear
    lora_down: Float[Array, "rank in_features"]
    lora_up: Float[Array, "out_features rank"]
    lora_scale: Float[Array, ""] | None
    cast: tuple[Float[Array, "rank in_features"], Float[Array, "out_features rank"]]
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    is_conv: bool = eqx.field(static=True)

    def __init__(
        self,
        base: Linear,
        lora_down: Float[Array, "rank in_features"],
        lora_up: Float[Array, "out_features rank"],
        lora_scale: Float[Array, ""] | None = None,
    ):
        r"""**Arguments:**

        - `base`: With the weight $W + \frac{\alpha}{r} U D$, the gradient of the update
            stopped.
        - `lora_down`, `lora_up`, `lora_scale`: The factors that are inside.
        """
        self.base = base
        self.lora_down = lora_down
        self.lora_up = lora_up
        self.lora_scale = lora_scale
        # For the backward pass of every call, and cast for none of them.
        factors = lax.stop_gradient((lora_down, lora_up))
        self.cast = jax.tree.map(lambda x: x.astype(base.dtype), factors)
        self.in_features = base.in_features
        self.out_features = base.out_features
        self.is_conv = base.is_conv

    @property
    def dtype(self) -> jnp.dtype:
        return self.base.dtype

    @jax.named_scope("lora")
    def product(self, x: Float[Array, "..."]) -> Float[Array, "... outputs"]:
        y = lora_matmul(
            x,
            self.base.weight,
            self.lora_down,
            self.lora_up,
            self.lora_scale,
            cast=self.cast,
        )
        return self.base.add_bias(y)

    def by_outputs(self) -> list[Any]:
        return [*self.base.by_outputs(), self.lora_up, self.cast[1]]

    def by_inputs(self) -> list[Any]:
        return [*self.base.by_inputs(), self.lora_down, self.cast[0]]
