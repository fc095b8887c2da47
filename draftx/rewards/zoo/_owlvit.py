"""OWL-ViT with patches of 32, as a detector of what a text asks for."""

from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_owlvit
from ..contract import AbstractReward
from ..perception import DetectionReward
from ._clip import CLIP_TOKENIZER, clip_tokenizer
from ._entry import Found, PublishedReward


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    model = read_owlvit(found.weights, found.dtype)
    tokenizer = clip_tokenizer(found, model.config.text.vocab_size)
    return DetectionReward(model, tokenizer, **options)


OWLVIT = PublishedReward(
    name="owlvit",
    reward=DetectionReward,
    files=HubFiles(
        "google/owlvit-base-patch32",
        "cbc355fb364588351c5d51c7f74465e8e7ec6f72",
        ("config.json", "model.safetensors"),
    ),
    license="Apache-2.0",
    size="613 MB",
    preprocessing="768 x 768, bicubic, antialiased; CLIP mean and std",
    range="[0, 576] for each query; at most 0 with `exclude`",
    compared_with="transformers",
    build=_build,
    from_files=("model", "tokenizer"),
    tokenizer=CLIP_TOKENIZER,
)
