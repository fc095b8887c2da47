"""The LAION aesthetic predictor, a head on CLIP ViT-L/14."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_aesthetic_head, read_clip
from ...judges import CLIPVisionModelWithProjection
from ..contract import AbstractReward
from ..preference import AestheticScore
from ._clip import CLIP_L, CLIP_PIXELS
from ._entry import Found, PublishedReward


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    assert isinstance(found.encoder, pathlib.Path)
    encoder = read_clip(CLIPVisionModelWithProjection, found.encoder, found.dtype)
    return AestheticScore(encoder, read_aesthetic_head(found.weights), **options)


AESTHETIC = PublishedReward(
    name="aesthetic",
    reward=AestheticScore,
    files=HubFiles(
        "trl-lib/ddpo-aesthetic-predictor",
        "cf4bd10345610935a80a5d3be9a3133c50f121e4",
        ("aesthetic-model.pth",),
    ),
    license="Apache-2.0 (CLIP: MIT)",
    size="3.7 MB and CLIP",
    preprocessing=CLIP_PIXELS,
    range="about 1 to 10",
    compared_with="transformers, PyTorch",
    build=_build,
    from_files=("encoder", "head"),
    encoder=CLIP_L,
)
