import math

import equinox as eqx
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import lora_matmul


class Linear(eqx.Module):
    r"""An affine map with an optional low-rank update built in.

    $$y = W x + b + \frac{\alpha}{r} U D x$$

    The update is skipped when `lora_down` and `lora_up` are `None`, so the frozen model
    and the adapted one are the same class with the same checkpoint keys. `lora_scale`
    is $\alpha / r$; `None` is 1. The update is computed in the dtype of `x`: a bfloat16
    base may carry float32 LoRA parameters.

    `lora_merged` is the sum $W + \frac{\alpha}{r} U D$, for as long as a layer is used
    many times between two updates of its adapter: see `premerged`.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), equation 3.
    """

    weight: Float[Array, "out_features in_features"]
    bias: Float[Array, " out_features"] | None
    lora_down: Float[Array, "rank in_features"] | None
    lora_up: Float[Array, "out_features rank"] | None
    lora_scale: Float[Array, ""] | None
    lora_merged: Float[Array, "out_features in_features"] | None
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
        self.lora_down = None
        self.lora_up = None
        self.lora_scale = None
        self.lora_merged = None
        self.in_features = in_features
        self.out_features = out_features
        self.is_conv = is_conv

    def __check_init__(self):
        if (self.lora_down is None) != (self.lora_up is None):
            raise ValueError("`lora_down` and `lora_up` must be both set or both None.")

    def __call__(
        self, x: Float[Array, "*batch {self.in_features}"]
    ) -> Float[Array, "*batch {self.out_features}"]:
        """**Arguments:**

        - `x`: Activations; every leading axis is a batch axis.

        **Returns:**

        Activations with the last axis mapped to `out_features`.
        """
        if self.lora_down is None or self.lora_up is None:
            y = jnp.einsum("...i,oi->...o", x, self.weight)
        elif self.lora_merged is not None:
            y = lora_matmul(
                x, self.lora_merged, self.lora_down, self.lora_up, self.lora_scale
            )
        else:
            y = jnp.einsum("...i,oi->...o", x, self.weight)
            down, up = self.lora_down.astype(x.dtype), self.lora_up.astype(x.dtype)
            update = jnp.einsum(
                "...r,or->...o", jnp.einsum("...i,ri->...r", x, down), up
            )
            if self.lora_scale is not None:
                update = self.lora_scale.astype(x.dtype) * update
            y = y + update
        if self.bias is not None:
            y = y + jnp.expand_dims(self.bias, tuple(range(y.ndim - 1)))
        return y

    def lora_update(self) -> Float[Array, "out_features in_features"] | None:
        r"""What the adapter adds to the weight, $\frac{\alpha}{r} U D$; `None` if there
        is no adapter."""
        if self.lora_down is None or self.lora_up is None:
            return None
        update = self.lora_up @ self.lora_down
        return update if self.lora_scale is None else self.lora_scale * update

    def without_lora(self) -> "Linear":
        """The same layer without its adapter; the weight is shared, not copied."""
        return eqx.tree_at(
            lambda m: (m.lora_down, m.lora_up, m.lora_scale, m.lora_merged),
            self,
            (None, None, None, None),
            is_leaf=lambda node: node is None,
        )

    def premerged(self) -> "Linear":
        """The same layer with its update added to the weight once for many calls.

        Values and gradients are those of the layer itself, up to one rounding to the
        weight's dtype; a call costs one matrix product, and the backward pass reaches
        `lora_down` and `lora_up` without ever forming the gradient of the weight. Not
        for storing: `lora_merged` does not follow later changes of the adapter.
        """
        update = self.lora_update()
        if update is None:
            return self
        merged = self.weight.astype(update.dtype) + lax.stop_gradient(update)
        return eqx.tree_at(
            lambda layer: layer.lora_merged,
            self,
            merged.astype(self.weight.dtype),
            is_leaf=lambda node: node is None,
        )
