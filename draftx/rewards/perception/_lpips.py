"""LPIPS: a distance between images that agrees with what people see."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors.numpy import load_file

from ..._custom_types import Images
from ...judges import PerceptualTrunk
from ...kernels import at_least_float32
from .._numerics import safe_sqrt
from .._preprocess import check_images, normalize
from ._distance import AbstractDistance


# ImageNet's mean and deviation for images in [-1, 1], as LPIPS rounds them.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(AbstractDistance):
    r"""Measures the distance between activations at five depths of VGG16 or AlexNet.

    $$d(x, y) = \sum_l \operatorname{mean}_{hw} \sum_c w_{lc}
        \left(\hat{f}_{lc}(x) - \hat{f}_{lc}(y)\right)^2$$

    where $\hat{f}_l$ are the activations, divided by their norm over the channels, and
    $w_l$ the published heads. At least 0, and 0 for equal images. Images are at least
    32 x 32 for AlexNet and 16 x 16 for VGG16.

    Version 0.1 of the heads comes with draftx (BSD-2-Clause; those of the package
    `lpips` 0.1.4). The trunk is torchvision's, trained on ImageNet (BSD-3-Clause):
    [`draftx.rewards.load_lpips`][] reads it.

    ??? cite

        [The Unreasonable Effectiveness of Deep Features as a Perceptual
        Metric](https://arxiv.org/abs/1801.03924), equation 1.
    """

    trunk: PerceptualTrunk
    heads: tuple[Float[Array, " channels"], ...]

    def __init__(
        self, trunk: PerceptualTrunk, heads: tuple[Float[Array, " channels"], ...]
    ):
        """**Arguments:**

        - `trunk`: Gives the activations.
        - `heads`: The weights of the channels at each depth.
        """
        self.trunk = trunk
        self.heads = heads

    @classmethod
    def from_arrays(
        cls, trunk: Mapping[str, Any], heads: Mapping[str, Any] | None = None
    ) -> "LPIPS":
        """Makes the distance from published weights.

        **Arguments:**

        - `trunk`: `features.0.weight` and so on: torchvision's VGG16 or AlexNet.
        - `heads`: `lin0.model.1.weight` and so on: the files of the package `lpips`,
            as [`draftx.io.read_torch_file`][] gives them. `None` is those in `trunk`
            if it is a state dict of `lpips.LPIPS`, and else the published ones.

        **Returns:**

        The distance, in float32.
        """
        network = PerceptualTrunk.from_arrays(trunk)
        if heads is None:
            has_heads = any(key.startswith("lin") for key in trunk)
            heads = trunk if has_heads else published_heads(network.architecture)
        found: dict[int, np.ndarray] = {}
        for key, array in heads.items():
            if match := re.fullmatch(r"lin(\d)\.model\.1\.weight", key):
                found[int(match[1])] = np.asarray(array, np.float32).reshape(-1)
        widths = tuple(found[i].size for i in sorted(found))
        if widths != network.channels:
            raise ValueError(
                "`heads` must have lin0.model.1.weight to lin4.model.1.weight, of "
                f"{network.channels} channels; got {len(found)} of {widths}. Use those "
                f"for {network.architecture}."
            )
        return cls(network, tuple(jnp.asarray(found[i]) for i in sorted(found)))

    @jax.named_scope("draftx.rewards.LPIPS")
    def features(self, images: Images) -> list[Float[Array, "batch _ _ _"]]:
        """Computes what is compared: the activations with norm one at every place."""
        check_images(images)
        images = images.astype(at_least_float32(images.dtype))
        return [unit(x) for x in self.trunk(normalize(2 * images - 1, _SHIFT, _SCALE))]

    def between(
        self,
        x: list[Float[Array, "batch _ _ _"]],
        y: list[Float[Array, "#batch _ _ _"]],
    ) -> Float[Array, " batch"]:
        """Measures the distances between what `features` gave, in float32.

        **Arguments:**

        - `x`, `y`: From `features`, of as many images.
        """
        layers = [
            jnp.mean(jnp.einsum("bhwc,c->bhw", jnp.square(a - b), head), axis=(1, 2))
            for a, b, head in zip(x, y, self.heads, strict=True)
        ]
        return sum(layers[1:], layers[0]).astype(jnp.float32)


def published_heads(architecture: str) -> dict[str, np.ndarray]:
    """Reads version 0.1 of the heads of a trunk, by the names of `lpips`."""
    path = pathlib.Path(__file__).with_name("lpips_heads.safetensors")
    prefix = f"{architecture}."
    arrays = load_file(path)
    return {k.removeprefix(prefix): x for k, x in arrays.items() if prefix in k}


def unit(
    x: Float[Array, "*batch channels"], epsilon: float = 1e-10
) -> Float[Array, "*batch channels"]:
    """Divides by the norm over the last axis; zero stays zero, with a finite slope."""
    norm = safe_sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / (norm + epsilon)
