"""Layers that wrap a convolution and add a low-rank update to what it computes."""

import functools as ft
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..kernels import conv2d, lora_conv2d, upsample_nearest, upsampled_conv2d
from ..layers import AbstractConv2d, Conv2d
from ._interface import AbstractLoRA, with_added


class LoRAConv2d(AbstractConv2d, AbstractLoRA):
    r"""Convolves by a frozen layer and a low-rank update, `[batch, height, width, c]`.

    $$y = W * x + b + \frac{\alpha}{r} U (D * x)$$

    $D$ is a convolution of the same window, stride and padding to $r$ channels, and $U$
    a matrix on channels. The update is computed in the dtype of `x`: a bfloat16 base
    may carry float32 factors.

    ??? cite

        [LoRA](https://arxiv.org/abs/2106.09685), equation 3; for convolutions as in
        PEFT and kohya's scripts.
    """

    base: Conv2d
    lora_down: Float[Array, "kernel_height kernel_width in_channels rank"]
    lora_up: Float[Array, "out_channels rank"]
    lora_scale: Float[Array, ""] | None
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    rank_axis: ClassVar[int] = 3

    def __init__(
        self,
        base: Conv2d,
        lora_down: Float[Array, "kernel_height kernel_width in_channels rank"],
        lora_up: Float[Array, "out_channels rank"],
        lora_scale: Float[Array, ""] | None = None,
    ):
        r"""**Arguments:**

        - `base`: The layer that is adapted, with $W$ and $b$.
        - `lora_down`: $D$, `[kernel_height, kernel_width, in_channels, rank]`.
        - `lora_up`: $U$, `[out_channels, rank]`.
        - `lora_scale`: $\alpha / r$; `None` is 1.
        """
        self.base = base
        self.lora_down = lora_down
        self.lora_up = lora_up
        self.lora_scale = lora_scale
        self.in_channels = base.in_channels
        self.out_channels = base.out_channels

    @property
    def dtype(self) -> jnp.dtype:
        return self.base.dtype

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.base.kernel_size

    def add_bias(
        self, y: Float[Array, "*batch {self.out_channels}"]
    ) -> Float[Array, "*batch {self.out_channels}"]:
        return self.base.add_bias(y)

    @jax.named_scope("lora")
    def convolve(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch out_height out_width {self.out_channels}"]:
        conv = ft.partial(conv2d, stride=self.base.stride, padding=self.base.padding)
        return self._convolve(conv, x)

    @jax.named_scope("lora")
    def convolve_upsampled(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch 2*height 2*width {self.out_channels}"]:
        return self._convolve(upsampled_conv2d, x)

    def _convolve(self, conv: Callable[[Array, Array], Array], x: Array) -> Array:
        y = conv(x, self.base.weight)
        update = conv(x, self.lora_down.astype(x.dtype))
        update = jnp.einsum("...r,or->...o", update, self.lora_up.astype(x.dtype))
        if self.lora_scale is not None:
            update = self.lora_scale.astype(x.dtype) * update
        return y + update

    def update(
        self,
    ) -> Float[Array, "kernel_height kernel_width in_channels out_channels"]:
        r"""Computes what is added to the weight, $\frac{\alpha}{r} U D$."""
        update = jnp.einsum("hwir,or->hwio", self.lora_down, self.lora_up)
        return update if self.lora_scale is None else self.lora_scale * update

    def premerged(self) -> "PremergedConv2d":
        """Adds the update to the weight once for many calls, and stays trainable."""
        merged = with_added(self.base, lax.stop_gradient(self.update()))
        return PremergedConv2d(merged, self.lora_down, self.lora_up, self.lora_scale)


class PremergedConv2d(AbstractConv2d):
    r"""Convolves by a weight that contains a low-rank update.

    Values and gradients are those of the [`draftx.lora.LoRAConv2d`][] that it was made
    from, up to one rounding to the weight's dtype; a call costs one convolution, and
    the backward pass reaches `lora_down` and `lora_up` without ever forming the
    gradient of the weight. Not for storing: the weight does not follow later changes of
    the adapter.
    """

    base: Conv2d
    lora_down: Float[Array, "kernel_height kernel_width in_channels rank"]
    lora_up: Float[Array, "out_channels rank"]
    lora_scale: Float[Array, ""] | None
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)

    def __init__(
        self,
        base: Conv2d,
        lora_down: Float[Array, "kernel_height kernel_width in_channels rank"],
        lora_up: Float[Array, "out_channels rank"],
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
        self.in_channels = base.in_channels
        self.out_channels = base.out_channels

    @property
    def dtype(self) -> jnp.dtype:
        return self.base.dtype

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.base.kernel_size

    def add_bias(
        self, y: Float[Array, "*batch {self.out_channels}"]
    ) -> Float[Array, "*batch {self.out_channels}"]:
        return self.base.add_bias(y)

    @jax.named_scope("lora")
    def convolve(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch out_height out_width {self.out_channels}"]:
        return lora_conv2d(
            x,
            self.base.weight,
            self.lora_down,
            self.lora_up,
            self.lora_scale,
            stride=self.base.stride,
            padding=self.base.padding,
        )

    def convolve_upsampled(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch 2*height 2*width {self.out_channels}"]:
        # The gradient of the factors needs the windows of the repeated image.
        return self.convolve(upsample_nearest(x))
