from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...layers import AbstractLinear, Linear
from ._arrays import shape_of, with_arrays
from ._layers import BatchNorm, Conv, max_pool


class Block(eqx.Module):
    """Adds to a feature map what two convolutions of 3x3 make of it.

    Or, with a bottleneck, one between two of 1x1.
    """

    conv1: Conv
    bn1: BatchNorm
    conv2: Conv
    bn2: BatchNorm
    conv3: Conv | None
    bn3: BatchNorm | None
    downsample: tuple[Conv, BatchNorm] | None

    def __init__(
        self,
        in_channels: int,
        inner: int,
        *,
        stride: int,
        is_bottleneck: bool,
        key: PRNGKeyArray,
    ):
        keys = jr.split(key, 4)
        channels = 4 * inner if is_bottleneck else inner
        size = 1 if is_bottleneck else 3
        strides = (1, stride) if is_bottleneck else (stride, 1)
        self.conv1 = Conv(
            in_channels, inner, kernel_size=size, stride=strides[0], key=keys[0]
        )
        self.bn1 = BatchNorm(inner)
        self.conv2 = Conv(inner, inner, kernel_size=3, stride=strides[1], key=keys[1])
        self.bn2 = BatchNorm(inner)
        self.conv3 = self.bn3 = self.downsample = None
        if is_bottleneck:
            self.conv3 = Conv(inner, channels, kernel_size=1, key=keys[2])
            self.bn3 = BatchNorm(channels)
        if stride != 1 or in_channels != channels:
            conv = Conv(
                in_channels, channels, kernel_size=1, stride=stride, key=keys[3]
            )
            self.downsample = (conv, BatchNorm(channels))

    @jax.named_scope("resnet_block")
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch out_height out_width channels"]:
        y = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
        if self.conv3 is not None and self.bn3 is not None:
            y = self.bn3(self.conv3(jax.nn.relu(y)))
        if self.downsample is not None:
            conv, norm = self.downsample
            x = norm(conv(x))
        return jax.nn.relu(x + y)


class ResNet(eqx.Module):
    """Classifies images: the residual network, by default with 50 layers.

    Names and arithmetic are torchvision's (the stride of a block lies in its 3x3
    convolution), which is also how timm publishes it: `timm/resnet50.tv_in1k`,
    BSD-3-Clause. Batch normalization uses the statistics of the file.

    ??? cite

        [Deep Residual Learning](https://arxiv.org/abs/1512.03385)
    """

    conv1: Conv
    bn1: BatchNorm
    layer1: tuple[Block, ...]
    layer2: tuple[Block, ...]
    layer3: tuple[Block, ...]
    layer4: tuple[Block, ...]
    fc: AbstractLinear

    def __init__(
        self,
        *,
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
        is_bottleneck: bool = True,
        num_classes: int = 1000,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `depths`: Blocks at each of the four scales. ResNet-18 has 2, 2, 2, 2 and
            ResNet-34 has 3, 4, 6, 3, both without bottleneck; ResNet-101 has 3, 4, 23,
            3 and ResNet-152 has 3, 8, 36, 3.
        - `width`: Channels at the first scale; each scale has twice those before.
        - `is_bottleneck`: Whether blocks have three convolutions and four times the
            channels.
        - `num_classes`: Logits.
        - `key`: Used to initialize the weights.
        """
        conv_key, fc_key, *keys = jr.split(key, 2 + sum(depths))
        self.conv1 = Conv(3, width, kernel_size=7, stride=2, key=conv_key)
        self.bn1 = BatchNorm(width)
        channels, layers = width, []
        for scale, depth in enumerate(depths):
            blocks, inner = [], width * 2**scale
            for i in range(depth):
                stride = 2 if i == 0 and scale > 0 else 1
                kwargs: dict[str, Any] = dict(stride=stride, key=keys.pop())
                blocks.append(
                    Block(channels, inner, is_bottleneck=is_bottleneck, **kwargs)
                )
                channels = 4 * inner if is_bottleneck else inner
            layers.append(tuple(blocks))
        self.layer1, self.layer2 = layers[:2]
        self.layer3, self.layer4 = layers[2:]
        self.fc = Linear(channels, num_classes, key=fc_key)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "ResNet":
        """Builds a network with published weights; its sizes are read off the shapes.

        **Arguments:**

        - `arrays`: By torchvision's names, as `safetensors.numpy.load_file` or
            [`draftx.io.read_torch_file`][] gives them.

        **Returns:**

        The network, in float32.
        """
        width = shape_of(arrays, "conv1.weight", "ResNet")[0]
        num_classes = shape_of(arrays, "fc.weight", "ResNet")[0]
        depth = lambda n: sum(
            f"layer{n}.{i}.conv1.weight" in arrays for i in range(len(arrays))
        )
        skeleton = eqx.filter_eval_shape(
            lambda key: cls(
                depths=(depth(1), depth(2), depth(3), depth(4)),
                width=width,
                is_bottleneck="layer1.0.conv3.weight" in arrays,
                num_classes=num_classes,
                key=key,
            ),
            jr.key(0),
        )
        return with_arrays(skeleton, arrays)

    @property
    def num_classes(self) -> int:
        """How many logits there are."""
        return self.fc.out_features

    @jax.named_scope("draftx.resnet")
    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """Averages the last activations over all places; 2048 in ResNet-50.

        **Arguments:**

        - `images`: Normalized with ImageNet's mean and deviation.
        """
        return jnp.mean(self.feature_maps(images)[-1], axis=(1, 2))

    def feature_maps(
        self, images: Float[Array, "batch height width 3"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """Computes the activations after each of the four layers, channels last.

        **Arguments:**

        - `images`: Normalized with ImageNet's mean and deviation.
        """
        x = images.astype(self.conv1.weight.dtype)
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = max_pool(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = block(x)
            maps.append(x)
        return maps

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch num_classes"]:
        """Computes the logits of normalized images, `[batch, num_classes]`."""
        return self.fc(self.features(images))
