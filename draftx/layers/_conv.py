import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..kernels import conv2d, upsampled_conv2d
from ._affine import AbstractAffine, Layout


class AbstractConv2d(AbstractAffine):
    """Convolves a feature map `[batch, height, width, channels]`, adding a bias.

    The UNet holds its convolutions as this, so that something else can take the place
    of a [`draftx.layers.Conv2d`][].
    """

    in_channels: eqx.AbstractVar[int]
    out_channels: eqx.AbstractVar[int]

    @abc.abstractmethod
    def add_bias(
        self, y: Float[Array, "*batch {self.out_channels}"]
    ) -> Float[Array, "*batch {self.out_channels}"]:
        """Adds the bias to each pixel, or to what will be added to each.

        **Arguments:**

        - `y`: Channels last.
        """

    @property
    @abc.abstractmethod
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the window."""

    @property
    def layout(self) -> Layout:
        return "conv"

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (*self.kernel_size, self.in_channels, rank), (self.out_channels, rank)

    @abc.abstractmethod
    def convolve(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch out_height out_width {self.out_channels}"]:
        """Maps a feature map to one with `out_channels`, without the bias.

        **Arguments:**

        - `x`: Channels last.

        **Returns:**

        A feature map in the dtype of `x`.
        """

    @abc.abstractmethod
    def convolve_upsampled(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch 2*height 2*width {self.out_channels}"]:
        """Maps a feature map whose pixels are repeated, without the bias.

        The window must be in the middle of the pixel that it makes.

        **Arguments:**

        - `x`: Channels last, before its pixels are repeated along both axes.

        **Returns:**

        A feature map in the dtype of `x`.
        """

    def upsampled(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch 2*height 2*width {self.out_channels}"]:
        """Maps a feature map to one of twice the height and width.

        **Arguments:**

        - `x`: Channels last; every pixel is repeated along both axes before.

        **Returns:**

        A feature map in the dtype of `x`.
        """
        return self.add_bias(self.convolve_upsampled(x))

    def __call__(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch out_height out_width {self.out_channels}"]:
        """Maps a feature map to one with `out_channels`.

        **Arguments:**

        - `x`: Channels last.

        **Returns:**

        A feature map in the dtype of `x`.
        """
        return self.add_bias(self.convolve(x))


class Conv2d(AbstractConv2d):
    """Convolves a feature map `[batch, height, width, channels]`.

    The weight is kept `HWIO`, the layout that needs no transpose on any device;
    checkpoints store `OIHW`.
    """

    weight: Float[Array, "kernel_height kernel_width in_channels out_channels"]
    bias: Float[Array, " out_channels"]
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    padding: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: tuple[int, int] = (1, 1),
        dtype: jnp.dtype | type = jnp.float32,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_channels`, `out_channels`: Sizes of the last axis before and after.
        - `kernel_size`: Of both spatial axes.
        - `stride`: Of both spatial axes.
        - `padding`: Zeros before and after, the same for both spatial axes. The
            autoencoder's downsampling pads on one side only.
        - `dtype`: Of the weight and the bias.
        - `key`: Used to initialize the weight.
        """
        bound = 1 / math.sqrt(in_channels * kernel_size**2)
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.weight = jr.uniform(key, shape, dtype, minval=-bound, maxval=bound)
        self.bias = jnp.zeros(out_channels, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.padding = padding

    @property
    def dtype(self) -> jnp.dtype:
        return self.weight.dtype

    @property
    def kernel_size(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def add_bias(
        self, y: Float[Array, "*batch {self.out_channels}"]
    ) -> Float[Array, "*batch {self.out_channels}"]:
        return y + jnp.expand_dims(self.bias, tuple(range(y.ndim - 1)))

    @jax.named_scope("conv")
    def convolve(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch out_height out_width {self.out_channels}"]:
        return conv2d(x, self.weight, stride=self.stride, padding=self.padding)

    @jax.named_scope("upsampled_conv")
    def convolve_upsampled(
        self, x: Float[Array, "batch height width {self.in_channels}"]
    ) -> Float[Array, "batch 2*height 2*width {self.out_channels}"]:
        return upsampled_conv2d(x, self.weight)
