"""torchvision's ResNet-50, a classifier of ImageNet."""

from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_network
from ...judges import ResNet
from ..contract import AbstractReward
from ..perception import ClassifierReward
from ._entry import Found, PublishedReward


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    return ClassifierReward(read_network(ResNet.from_arrays, found.weights), **options)


RESNET50 = PublishedReward(
    name="resnet50",
    reward=ClassifierReward,
    files=HubFiles(
        "timm/resnet50.tv_in1k",
        "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa",
        ("model.safetensors",),
        {
            "model.safetensors": (
                "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"
            )
        },
    ),
    license="BSD-3-Clause",
    size="102 MB",
    preprocessing=(
        "shortest edge 256, bilinear, antialiased; middle 224; ImageNet mean and std"
    ),
    range="at most 0",
    compared_with="torchvision-shaped reference",
    build=_build,
    from_files=("classifier",),
    any_dtype=False,
)
