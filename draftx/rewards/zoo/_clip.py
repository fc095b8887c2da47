"""CLIP ViT-L/14, which others were made of: its files, its vocabulary, its score."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_clip, read_tokenizer
from ...judges import CLIPModel
from ...models import CLIPTokenizer
from ..contract import AbstractReward
from ..preference import CLIPScore
from ._entry import Found, PublishedReward, TokenizerFiles


_REPO = ("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")

CLIP_L = HubFiles(
    *_REPO,
    ("config.json", "model.safetensors"),
    {
        "model.safetensors": (
            "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
        )
    },
)
# CLIP ViT-L/14, ViT-H/14 and their descendants were trained with this vocabulary.
CLIP_TOKENIZER = TokenizerFiles(
    CLIPTokenizer,
    HubFiles(*_REPO, ("vocab.json", "merges.txt")),
    also=(("tokenizer.json",),),
)
CLIP_PIXELS = "shortest edge 224, bicubic, antialiased; center crop; CLIP mean and std"


def clip_tokenizer(found: Found, vocab_size: int) -> CLIPTokenizer:
    """Reads the tokenizer that was found, unless it is loaded already."""
    words = found.tokenizer
    if isinstance(words, CLIPTokenizer):
        return words
    assert isinstance(words, pathlib.Path)
    return read_tokenizer(words, vocab_size)


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    model = read_clip(CLIPModel, found.weights, found.dtype)
    tokenizer = clip_tokenizer(found, model.config.text.vocab_size)
    return CLIPScore(model, tokenizer, **options)


CLIP = PublishedReward(
    name="clip",
    reward=CLIPScore,
    files=CLIP_L,
    license="MIT",
    size="1.7 GB",
    preprocessing=CLIP_PIXELS,
    range="[-1, 1], matches 0.2 to 0.35",
    compared_with="transformers",
    build=_build,
    from_files=("model", "tokenizer"),
    tokenizer=CLIP_TOKENIZER,
)
