"""OWL-ViT with patches of 32: whether what a text asks for is there, and how often."""

from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_owlvit
from ...judges import OwlViTForObjectDetection
from ...models import CLIPTokenizer
from ..contract import AbstractReward
from ..perception import DetectedCount, DetectionReward
from ._clip import CLIP_TOKENIZER, clip_tokenizer
from ._entry import Found, PublishedReward


_FILES = HubFiles(
    "google/owlvit-base-patch32",
    "cbc355fb364588351c5d51c7f74465e8e7ec6f72",
    ("config.json", "model.safetensors"),
)
_PIXELS = "768 x 768, bicubic, antialiased; CLIP mean and std"


def _parts(found: Found) -> tuple[OwlViTForObjectDetection, CLIPTokenizer]:
    model = read_owlvit(found.weights, found.dtype)
    return model, clip_tokenizer(found, model.config.text.vocab_size)


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    return DetectionReward(*_parts(found), **options)


def _build_count(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    return DetectedCount(*_parts(found), **options)


OWLVIT = PublishedReward(
    name="owlvit",
    reward=DetectionReward,
    files=_FILES,
    license="Apache-2.0",
    size="613 MB",
    preprocessing=_PIXELS,
    range="[0, 576] for each query; at most 0 with `exclude`",
    compared_with="transformers",
    build=_build,
    from_files=("model", "tokenizer"),
    tokenizer=CLIP_TOKENIZER,
)
OWLVIT_COUNT = PublishedReward(
    name="owlvit-count",
    reward=DetectedCount,
    files=_FILES,
    license=OWLVIT.license,
    size=OWLVIT.size,
    preprocessing=_PIXELS,
    range="at most 0",
    compared_with=OWLVIT.compared_with,
    build=_build_count,
    from_files=OWLVIT.from_files,
    tokenizer=OWLVIT.tokenizer,
)
