import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray


class Conv(eqx.Module):
    """Convolves a feature map, with a weight in the order of checkpoints, `OIHW`.

    Unlike [`draftx.layers.Conv2d`][] it may have groups, lack a bias, and pad as
    TensorFlow does.
    """

    weight: Float[Array, "out_channels group_channels kernel_height kernel_width"]
    bias: Float[Array, " out_channels"] | None
    stride: int = eqx.field(static=True)
    padding: int | Literal["same"] = eqx.field(static=True)
    num_groups: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int | Literal["same"] | None = None,
        num_groups: int = 1,
        use_bias: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_channels`, `out_channels`: Sizes of the last axis before and after.
        - `kernel_size`, `stride`: Of both spatial axes.
        - `padding`: Zeros on every side, half of the kernel if `None`. With `"same"`
            there are as many as `stride` needs, the odd one after.
        - `num_groups`: Outputs see the inputs of their own group only.
        - `use_bias`: Where no normalization follows.
        - `key`: Used to initialize the weight.
        """
        fan_in = in_channels // num_groups * kernel_size**2
        shape = (out_channels, in_channels // num_groups, kernel_size, kernel_size)
        self.weight = math.sqrt(2 / fan_in) * jr.normal(key, shape)
        self.bias = jnp.zeros(out_channels) if use_bias else None
        self.stride = stride
        self.padding = kernel_size // 2 if padding is None else padding
        self.num_groups = num_groups

    @jax.named_scope("conv")
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch out_height out_width out_channels"]:
        padding = self.padding
        y = jax.lax.conv_general_dilated(
            x,
            self.weight,
            window_strides=(self.stride, self.stride),
            padding="SAME" if padding == "same" else ((padding, padding),) * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=self.num_groups,
        )
        return y if self.bias is None else y + self.bias[None, None, None]


class BatchNorm(eqx.Module):
    """Maps every channel affinely: batch normalization after training."""

    weight: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    running_mean: Float[Array, " channels"]
    running_var: Float[Array, " channels"]
    epsilon: float = eqx.field(static=True)

    def __init__(self, channels: int, *, epsilon: float = 1e-5):
        self.weight = jnp.ones(channels)
        self.bias = jnp.zeros(channels)
        self.running_mean = jnp.zeros(channels)
        self.running_var = jnp.ones(channels)
        self.epsilon = epsilon

    @jax.named_scope("batch_norm")
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        scale = self.weight * jax.lax.rsqrt(self.running_var + self.epsilon)
        shift = self.bias - scale * self.running_mean
        return x * scale[None, None, None] + shift[None, None, None]


def max_pool(
    x: Float[Array, "batch height width channels"],
    *,
    kernel_size: int,
    stride: int,
    padding: int = 0,
) -> Float[Array, "batch out_height out_width channels"]:
    """Takes the largest value of every window; those that do not fit are left out."""
    margin = (padding, padding)
    return jax.lax.reduce_window(
        x,
        # A constant, by which JAX knows the maximum, and its derivative.
        np.asarray(-np.inf, x.dtype),
        jax.lax.max,
        window_dimensions=(1, kernel_size, kernel_size, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), margin, margin, (0, 0)),
    )
