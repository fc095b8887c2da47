"""What a distance between images is, and the plainest one."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from ...kernels import at_least_float32
from .._preprocess import check_images


class AbstractDistance(eqx.Module):
    """Measures how far images are from each other: at least 0, and 0 for equal ones.

    In two parts, so that those of a reference image are computed once: what is compared
    of an image, and the distance between two of these.
    """

    @abc.abstractmethod
    def features(self, images: Images) -> Any:
        """Computes what is compared: arrays with one row for each image.

        **Arguments:**

        - `images`: Channels last, in $[0, 1]$.
        """

    @abc.abstractmethod
    def between(self, x: Any, y: Any) -> Float[Array, " batch"]:
        """Measures the distances between rows of what `features` gave, in float32.

        **Arguments:**

        - `x`, `y`: Of as many images, or `y` of one.
        """

    def __call__(self, x: Images, y: Images) -> Float[Array, " batch"]:
        """Measures the distance between every image and its counterpart, in float32.

        **Arguments:**

        - `x`, `y`: Channels last, in $[0, 1]$, of one size.
        """
        check_one_shape(x, y)
        return self.between(self.features(x), self.features(y))


class MeanSquaredError(AbstractDistance):
    r"""Measures the mean squared difference over pixels and channels: in $[0, 1]$."""

    def features(self, images: Images) -> Images:
        check_images(images)
        return images.astype(at_least_float32(images.dtype))

    def between(self, x: Images, y: Images) -> Float[Array, " batch"]:
        return jnp.mean(jnp.square(x - y), axis=(1, 2, 3)).astype(jnp.float32)


def check_one_shape(x: Any, y: Any) -> None:
    """Raises unless two batches of images are of one shape."""
    if jnp.shape(x) != jnp.shape(y):
        raise ValueError(
            f"`x` and `y` must have one shape; got {jnp.shape(x)} and {jnp.shape(y)}."
        )
