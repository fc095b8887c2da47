"""Images that look like given ones, to the eye of a network."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._custom_types import Images
from .._preprocess import check_images
from ..contract import AbstractReward
from ._features import check_one_of, Distance, FeatureDistance
from ._lpips import LPIPS
from ._network import Preprocess


Reduction: TypeAlias = Literal["mean", "nearest"]


class LPIPSSimilarity(AbstractReward):
    """Scores images by minus the LPIPS distance to reference images: at most 0.

    Scores images of the references' size, without preprocessing but LPIPS's own. The
    references' activations are computed once and kept: about 130 MB for each of
    512 x 512 in VGG16, and 11 MB in AlexNet.
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

    @jax.named_scope("draftx.rewards.LPIPSSimilarity")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        check_images(images)
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
    r"""Scores images by minus the distance of their features to those of references.

    `"cosine"` is $1 - \cos$, from 0 to 2; `"l2"` is the Euclidean distance. With
    features of a classifier this asks for the same kind of thing, where
    [`draftx.rewards.LPIPSSimilarity`][] asks for the same image:

        FeatureSimilarity(resnet.features, references)
    """

    distance: FeatureDistance
    references: Float[Array, "references features"]
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
        check_one_of("reduction", reduction, Reduction)
        self.distance = FeatureDistance(network, distance, preprocess=preprocess)
        self.reduction = reduction
        self.references = _features_once(self.distance.features, references)

    @jax.named_scope("draftx.rewards.FeatureSimilarity")
    def __call__(self, images: Images, features: Any = None) -> Float[Array, " batch"]:
        del features
        features = self.distance.features(images)
        if features.shape[1] != self.references.shape[1]:
            raise ValueError(
                "`images` must give as many features as the references, "
                f"{self.references.shape[1]}; got {features.shape[1]}. Use images of "
                "the references' size, or a `preprocess` that makes them so."
            )
        between = lambda reference: self.distance.between(features, reference)
        return -_reduce(between, self.references, self.reduction)


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
