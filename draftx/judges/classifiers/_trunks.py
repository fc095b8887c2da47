"""VGG16 and AlexNet up to their last convolution: the eyes of perceptual distances."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._arrays import shape_of, with_arrays
from ._layers import Conv, max_pool


Architecture: TypeAlias = Literal["vgg16", "alexnet"]


class _Spec(NamedTuple):
    """Describes a network: a letter for each entry of `features`, and where to look.

    `layers` has `c` for a convolution, `r` for ReLU and `p` for pooling; `taps` are the
    entries whose outputs are looked at.
    """

    layers: str
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    # (kernel size, stride, padding) of each convolution.
    kernels: tuple[tuple[int, int, int], ...]
    pool_size: int


_SPECS: dict[str, _Spec] = {
    "vgg16": _Spec(
        layers="crcrp" * 2 + "crcrcrp" * 3,
        taps=(3, 8, 15, 22, 29),
        channels=(64, 64, 128, 128, *(256,) * 3, *(512,) * 6),
        kernels=((3, 1, 1),) * 13,
        pool_size=2,
    ),
    "alexnet": _Spec(
        layers="crpcrpcrcrcrp",
        taps=(1, 4, 7, 9, 11),
        channels=(64, 192, 384, 256, 256),
        kernels=((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)),
        pool_size=3,
    ),
}


class PerceptualTrunk(eqx.Module):
    """Computes the activations of VGG16 or AlexNet at five depths.

    `features` has an entry for every one of torchvision's, `None` where there are no
    parameters. torchvision's weights are BSD-3-Clause.

    ??? cite

        [VGG](https://arxiv.org/abs/1409.1556),
        [AlexNet](https://arxiv.org/abs/1404.5997)
    """

    features: tuple[Conv | None, ...]
    architecture: Architecture = eqx.field(static=True)

    def __init__(
        self,
        architecture: Architecture = "vgg16",
        *,
        channels: tuple[int, ...] | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `architecture`: `"vgg16"` or `"alexnet"`.
        - `channels`: Of each convolution; the published ones if `None`.
        - `key`: Used to initialize the weights.
        """
        spec = spec_of(architecture)
        channels = spec.channels if channels is None else channels
        pairs = zip((3, *channels), channels, strict=False)
        keys = jr.split(key, len(channels))
        convs = [
            Conv(i, o, kernel_size=k, stride=s, padding=p, use_bias=True, key=key)
            for (i, o), (k, s, p), key in zip(pairs, spec.kernels, keys, strict=True)
        ]
        remaining = iter(convs)
        # Nothing looks beyond the last tap.
        self.features = tuple(
            next(remaining) if layer == "c" else None
            for layer in spec.layers[: spec.taps[-1]]
        )
        self.architecture = architecture

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> "PerceptualTrunk":
        """Builds a trunk with published weights; which one is read off the shapes.

        **Arguments:**

        - `arrays`: By torchvision's names (and timm's), `features.0.weight` and so on,
            or by those of the package `lpips`, `net.slice1.0.weight`. The layers that
            classify and the heads of LPIPS are skipped.

        **Returns:**

        The trunk, in float32.
        """
        rename = lambda key: re.sub(r"^(net\.)?slice\d+\.", "features.", key)
        arrays = {rename(key): array for key, array in arrays.items()}
        skipped = re.compile(
            r"classifier\.|pre_logits\.|head\.|lins?\d*\.|scaling_layer\."
        )
        arrays = {k: v for k, v in arrays.items() if not skipped.match(k)}
        first = shape_of(arrays, "features.0.weight", "VGG16 or AlexNet")
        architecture: Architecture = "alexnet" if first[-1] == 11 else "vgg16"
        name = {"alexnet": "AlexNet", "vgg16": "VGG16"}[architecture]
        spec = spec_of(architecture)
        channels = tuple(
            shape_of(arrays, f"features.{i}.weight", name)[0]
            for i, layer in enumerate(spec.layers)
            if layer == "c"
        )
        skeleton = eqx.filter_eval_shape(
            lambda key: cls(architecture, channels=channels, key=key), jr.key(0)
        )
        return with_arrays(skeleton, arrays)

    @property
    def channels(self) -> tuple[int, ...]:
        """How many channels the activations at the five depths have."""
        spec = spec_of(self.architecture)
        convs = [self.features[tap - 1] for tap in spec.taps]
        return tuple(conv.weight.shape[0] for conv in convs if conv is not None)

    @jax.named_scope("draftx.perceptual_trunk")
    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> list[Float[Array, "batch _ _ _"]]:
        """Computes activations of images `[batch, height, width, 3]`.

        **Arguments:**

        - `images`: Normalized with ImageNet's mean and deviation.

        **Returns:**

        The activations at the five depths, largest first.
        """
        first = self.features[0]
        assert first is not None
        spec = spec_of(self.architecture)
        x, outputs = images.astype(first.weight.dtype), []
        for i, layer in enumerate(spec.layers[: spec.taps[-1] + 1]):
            if layer == "c":
                conv = self.features[i]
                assert conv is not None
                x = conv(x)
            elif layer == "r":
                x = jax.nn.relu(x)
            else:
                x = max_pool(x, kernel_size=spec.pool_size, stride=2)
            if i in spec.taps:
                outputs.append(x)
        if 0 in outputs[-1].shape[1:3]:
            raise ValueError(
                "`images` must be large enough for five scales of "
                f"{self.architecture}; got {images.shape[1]}x{images.shape[2]}."
            )
        return outputs


def spec_of(architecture: str) -> _Spec:
    """Looks up what is known of a network; raises unless there is one of that name."""
    if architecture not in _SPECS:
        raise ValueError(
            f"`architecture` must be one of {list(_SPECS)}; got {architecture!r}."
        )
    return _SPECS[architecture]
