"""Images that look like given ones, to the eye of a network."""

from collections.abc import Callable
from typing import Any, get_args, Literal, TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._custom_types import Images
from ._base import AbstractReward
from ._classifier import default_preprocess, Preprocess, preprocessed
from ._lpips import LPIPS, safe_sqrt, unit
from ._preprocess import check_images


Reduction: TypeAlias = Literal["mean", "nearest"]
Distance: TypeAlias = Literal["cosine", "l2"]


class LPIPSSimilarity(AbstractReward):
    """Minus the LPIPS distance to reference images: at most 0.

    Scores images of the references' size, without preprocessing but LPIPS's own. The
    references' activations are computed once and kept: about 130 MB for each of
    512 × 512 in VGG16, and 11 MB in AlexNet.
    """

    lpips: LPIPS
    references: list[Float[Array, "references _ _ _"]]
    image_size: tuple[int, int] = eqx.field(static=True)
    reduction: Reduction = eqx.field(static=True)

    def __init__(
        self, lpips: LPIPS, references: Images, *, reduction: Reduction = "mean"
    ):
        """**Arguments:**

        - `lpips`: The distance.
        - `references`: In $[0, 1]$.
        - `reduction`: `"mean"` of the distances to the references, or the distance to
            the `"nearest"` one.
        """
        check_one_of("reduction", reduction, Reduction)
        self.lpips = lpips
        self.references = _features_once(lpips.features, references)
        self.image_size = _height_and_width(references)
        self.reduction = reduction

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        del prompts
        if images.shape[1:3] != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"`images` must have the references' size, {height}x{width}; got "
                f"{images.shape[1]}x{images.shape[2]}."
            )
        features = self.lpips.features(images)
        distance = lambda reference: self.lpips.between(features, reference)
        return -_reduce(distance, self.references, self.reduction)


class FeatureSimilarity(AbstractReward):
    r"""Minus the distance between an image's features and those of reference images.

    `"cosine"` is $1 - \cos$, from 0 to 2; `"l2"` is the Euclidean distance. With
    features of a classifier this asks for the same kind of thing, where
    [`draftx.rewards.LPIPSSimilarity`][] asks for the same picture:

        FeatureSimilarity(resnet.features, references)
    """

    network: Callable[..., Float[Array, "batch ..."]]
    references: Float[Array, "references features"]
    preprocess: Preprocess
    distance: Distance = eqx.field(static=True)
    reduction: Reduction = eqx.field(static=True)

    def __init__(
        self,
        network: Callable[..., Float[Array, "batch ..."]],
        references: Images,
        *,
        distance: Distance = "cosine",
        reduction: Reduction = "mean",
        preprocess: Preprocess | Literal["auto"] = "auto",
    ):
        """**Arguments:**

        - `network`: Preprocessed images to features, such as the method `features` of
            a classifier.
        - `references`: In $[0, 1]$.
        - `distance`: `"cosine"` or `"l2"`.
        - `reduction`: `"mean"` of the distances to the references, or the distance to
            the `"nearest"` one.
        - `preprocess`: As in [`draftx.rewards.ClassifierReward`][].
        """
        check_one_of("distance", distance, Distance)
        check_one_of("reduction", reduction, Reduction)
        self.network = network
        self.preprocess = default_preprocess(network, preprocess)
        self.distance = distance
        self.reduction = reduction
        self.references = _features_once(self._features, references)

    def _features(self, images: Images) -> Float[Array, "batch features"]:
        features = self.network(preprocessed(self.preprocess, images))
        features = features.reshape(len(features), -1).astype(jnp.float32)
        return unit(features) if self.distance == "cosine" else features

    def __call__(self, images: Images, prompts: Any = None) -> Float[Array, " batch"]:
        del prompts
        features = self._features(images)
        if features.shape[1] != self.references.shape[1]:
            raise ValueError(
                "`images` must give as many features as the references, "
                f"{self.references.shape[1]}; got {features.shape[1]}. Use images of "
                "the references' size, or a `preprocess` that makes them so."
            )

        def between(reference):
            squares = jnp.sum(jnp.square(features - reference), axis=-1)
            # Of unit vectors, half the squared distance is one minus the cosine.
            return 0.5 * squares if self.distance == "cosine" else safe_sqrt(squares)

        return -_reduce(between, self.references, self.reduction)


def check_one_of(name: str, value: str, literal: Any) -> None:
    """Raises unless `value` is one of a `Literal`."""
    if value not in get_args(literal):
        raise ValueError(f"`{name}` must be one of {get_args(literal)}; got {value!r}.")


def _height_and_width(images: Images) -> tuple[int, int]:
    return images.shape[1], images.shape[2]


def _features_once(features: Callable[[Images], Any], references: Images) -> Any:
    check_images(references)
    if len(references) == 0:
        raise ValueError("`references` must be at least one image; got none.")
    return eqx.filter_jit(lambda fn, x: fn(x))(features, references)


def _reduce(
    distance: Callable[[Any], Float[Array, " batch"]],
    references: Any,
    reduction: Reduction,
) -> Float[Array, " batch"]:
    """The distances to all references, one after the other, as one number an image."""
    one = lambda reference: distance(jax.tree.map(lambda x: x[None], reference))
    distances = lax.map(one, references)
    if reduction == "nearest":
        return jnp.min(distances, axis=0)
    return jnp.mean(distances, axis=0)
