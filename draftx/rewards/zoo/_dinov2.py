"""DINOv2 ViT-S/14: how near an image is to its row's own, patch by patch or whole."""

from collections.abc import Callable, Mapping
from typing import Any

from ...io import HubFiles, read_dinov2
from ..contract import AbstractReward
from ..perception import (
    FeatureDistance,
    ReferenceSimilarity,
    TokenDistance,
)
from ._entry import Found, PublishedReward


_FILES = HubFiles(
    "facebook/dinov2-small",
    "ed25f3a31f01632728cabb09d1542f84ab7b0056",
    ("config.json", "model.safetensors"),
    {
        "model.safetensors": (
            "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1"
        )
    },
)
_PIXELS = "shortest edge 256, bicubic, antialiased; middle 224; ImageNet mean and std"


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    model = read_dinov2(found.weights, found.dtype)
    return ReferenceSimilarity(TokenDistance(model.hidden_states), **options)


def _build_pooled(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    model = read_dinov2(found.weights, found.dtype)
    return ReferenceSimilarity(FeatureDistance(model), **options)


def _entry(name: str, build: Callable[..., AbstractReward]) -> PublishedReward:
    return PublishedReward(
        name=name,
        reward=ReferenceSimilarity,
        files=_FILES,
        license="Apache-2.0",
        size="88 MB",
        preprocessing=_PIXELS,
        range="from -2 to 0",
        compared_with="transformers",
        build=build,
        from_files=("distance",),
    )


DINOV2_SMALL = _entry("dinov2-small", _build)
DINOV2_SMALL_POOLED = _entry("dinov2-small-pooled", _build_pooled)
