"""PickScore of version 1."""

from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_clip
from ...judges import CLIPModel
from ..contract import AbstractReward
from ..preference import PickScore
from ._clip import CLIP_PIXELS, CLIP_TOKENIZER, clip_tokenizer
from ._entry import Found, PublishedReward


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    model = read_clip(CLIPModel, found.weights, found.dtype)
    tokenizer = clip_tokenizer(found, model.config.text.vocab_size)
    return PickScore(model, tokenizer, **options)


PICKSCORE = PublishedReward(
    name="pickscore",
    reward=PickScore,
    files=HubFiles(
        "yuvalkirstain/PickScore_v1",
        "a4e4367c6dfa7288a00c550414478f865b875800",
        ("config.json", "model.safetensors"),
    ),
    license="none stated (code: MIT)",
    size="3.9 GB",
    preprocessing=CLIP_PIXELS,
    range="[-100, 100], about 20",
    compared_with="transformers",
    build=_build,
    from_files=("model", "tokenizer"),
    tokenizer=CLIP_TOKENIZER,
)
