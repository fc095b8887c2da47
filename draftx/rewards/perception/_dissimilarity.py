"""Images unlike the others of their batch, against all of them becoming one."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from ...kernels import at_least_float32
from .._numerics import safe_sqrt
from .._preprocess import check_images
from ..contract import AbstractReward


class BatchDissimilarity(AbstractReward):
    r"""Scores images by the distance to their counterparts in the reversed batch.

    $$r_i(x) = d(x_i,\, x_{B - 1 - i}) \ge 0$$

    A term to add to another reward, by [`draftx.rewards.WeightedSum`][]. It stands for
    the mean over all pairs, at the cost of $B / 2$ of them; every pair counts twice,
    and the image in the middle of an odd batch scores 0.

    !!! warning

        This reward does not look at every image on its own: `images_at_once` of
        [`draftx.finetune`][] must be `None`.

    !!! info

        The paper tried the Euclidean distance and LPIPS, and found neither to be a
        remedy: with a large weight, images differ at the expense of the other reward.

    ??? cite

        [DRaFT](https://arxiv.org/abs/2309.17400), appendix B.8.
    """

    distance: Callable[[Images, Images], Float[Array, " batch"]] | None
    average: bool = eqx.field(static=True)

    def __init__(
        self,
        distance: Literal["l2", "rms"]
        | Callable[[Images, Images], Float[Array, " batch"]] = "l2",
    ):
        """**Arguments:**

        - `distance`: `"l2"`, the Euclidean distance over all pixels and channels;
            `"rms"`, the same over the square root of their number, at most 1 at every
            size; or a function of two batches, such as [`draftx.rewards.LPIPS`][] or a
            [`draftx.rewards.FeatureDistance`][].
        """
        if distance not in ("l2", "rms") and not callable(distance):
            raise ValueError(
                "`distance` must be 'l2', 'rms' or a function of two batches of "
                f"images; got {distance!r}."
            )
        self.distance = None if isinstance(distance, str) else distance
        self.average = distance == "rms"

    @jax.named_scope("draftx.rewards.BatchDissimilarity")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        check_images(images)
        if len(images) < 2:
            raise ValueError(
                "`images` must be two at least, to be unlike each other; got "
                f"{len(images)}. Use a larger batch, and leave `images_at_once` alone."
            )
        if self.distance is not None:
            return self.distance(images, jnp.flip(images, axis=0))
        x = images.astype(at_least_float32(images.dtype))
        squares = jnp.square(x - jnp.flip(x, axis=0))
        reduce = jnp.mean if self.average else jnp.sum
        return safe_sqrt(reduce(squares, axis=(1, 2, 3))).astype(jnp.float32)
