"""How far images are from each other, to the eye of a network."""

from collections.abc import Callable
from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from .._numerics import safe_sqrt
from ..contract import RewardError
from ._distance import AbstractDistance
from ._lpips import unit
from ._network import default_preprocess, in_words, is_of, Preprocess, what_it_sees


Distance: TypeAlias = Literal["cosine", "l2"]


class FeatureDistance(AbstractDistance):
    r"""Measures the distance between the features of two images.

    `"cosine"` is $1 - \cos$, from 0 to 2; `"l2"` is the Euclidean distance.
    """

    network: Callable[..., Float[Array, "batch ..."]]
    preprocess: Preprocess
    kind: Distance = eqx.field(static=True)

    def __init__(
        self,
        network: Callable[..., Float[Array, "batch ..."]],
        kind: Distance = "cosine",
        *,
        preprocess: Preprocess | Literal["auto"] = "auto",
    ):
        """**Arguments:**

        - `network`: Preprocessed images to features, such as the method `features` of
            a classifier.
        - `kind`: `"cosine"` or `"l2"`.
        - `preprocess`: As in [`draftx.rewards.ClassifierReward`][].
        """
        check_one_of("distance", kind, Distance)
        self.network = network
        self.preprocess = default_preprocess(network, preprocess)
        self.kind = kind

    def features(self, images: Images) -> Float[Array, "batch features"]:
        """Computes what is compared, in float32."""
        features = what_it_sees(self.network, self.preprocess, images)
        if not is_of(images, features, axes=1):
            raise RewardError(
                "`network` must give features, floats with a row for each of "
                f"{len(images)} images; got {in_words(features)}."
            )
        features = features.reshape(len(features), -1).astype(jnp.float32)
        return unit(features) if self.kind == "cosine" else features

    def between(
        self, x: Float[Array, "batch features"], y: Float[Array, "#batch features"]
    ) -> Float[Array, " batch"]:
        """Measures the distances between what `features` gave.

        **Arguments:**

        - `x`, `y`: From `features`, of as many images.
        """
        squares = jnp.sum(jnp.square(x - y), axis=-1)
        # Of unit vectors, half the squared distance is one minus the cosine.
        return 0.5 * squares if self.kind == "cosine" else safe_sqrt(squares)


def check_one_of(name: str, value: str, literal: Any) -> None:
    """Raises unless `value` is one of a `Literal`."""
    if value not in get_args(literal):
        raise ValueError(f"`{name}` must be one of {get_args(literal)}; got {value!r}.")
