"""LPIPS of version 0.1, with VGG16 and with AlexNet."""

import functools as ft
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...io import HubFiles, ModelFileError, read_network, TorchFile
from ..contract import AbstractReward
from ..perception import LPIPS, LPIPSSimilarity
from ._entry import Files, Found, PathLike, PublishedReward
from ._find import find


def load_lpips(architecture: str, source: PathLike | None = None) -> LPIPS:
    """Loads the distance LPIPS, version 0.1, which is no reward by itself.

    **Arguments:**

    - `architecture`: `"vgg"` or `"alex"`.
    - `source`: torchvision's file of the network. `None` is the published one, as for
        [`draftx.rewards.load`][].
    """
    entries = {"vgg": LPIPS_VGG, "alex": LPIPS_ALEX}
    if architecture not in entries:
        raise ValueError(
            f"`architecture` must be 'vgg' or 'alex'; got {architecture!r}."
        )
    found = find(entries[architecture], source, dtype=np.dtype(np.float32))
    return _read(_TRUNKS[architecture], found.weights)


_TRUNKS = {"vgg": "vgg16", "alex": "alexnet"}


def _read(trunk: str, path: pathlib.Path) -> LPIPS:
    lpips = read_network(LPIPS.from_arrays, path)
    if lpips.trunk.architecture != trunk:
        raise ModelFileError(
            f"{str(path)!r} must hold the weights of {trunk}; they are those of "
            f"{lpips.trunk.architecture}."
        )
    return lpips


def _build(trunk: str, found: Found, options: Mapping[str, Any]) -> AbstractReward:
    return LPIPSSimilarity(_read(trunk, found.weights), **options)


def _entry(architecture: str, files: Files, size: str) -> PublishedReward:
    return PublishedReward(
        name=f"lpips-{architecture}",
        reward=LPIPSSimilarity,
        files=files,
        license="BSD-3-Clause (heads: BSD-2-Clause)",
        size=size,
        preprocessing="none but LPIPS's mean and std",
        range="at most 0",
        compared_with="lpips, its heads",
        build=ft.partial(_build, _TRUNKS[architecture]),
        from_files=("lpips",),
        any_dtype=False,
    )


LPIPS_VGG = _entry(
    "vgg",
    HubFiles(
        "timm/vgg16.tv_in1k",
        "b8d8aa2dd860af9233c8c67385a8097fd6c35d3f",
        ("model.safetensors",),
        {
            "model.safetensors": (
                "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"
            )
        },
    ),
    "553 MB",
)
LPIPS_ALEX = _entry(
    "alex",
    TorchFile(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "244 MB",
)
