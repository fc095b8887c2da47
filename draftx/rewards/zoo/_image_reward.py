"""ImageReward of version 1."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_bert_tokenizer, read_image_reward
from ...judges import BertTokenizer, ImageRewardConfig
from ..contract import AbstractReward
from ..preference import ImageReward
from ._clip import CLIP_PIXELS
from ._entry import Found, PublishedReward, TokenizerFiles


_VOCABULARY = HubFiles(
    "google-bert/bert-base-uncased",
    "86b5e0934494bd15c9632b12f734a8a67f723594",
    ("vocab.txt",),
    {"vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
)


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    path, words = found.weights, found.tokenizer
    path = path / "ImageReward.pt" if path.is_dir() else path
    if not isinstance(words, BertTokenizer):
        assert isinstance(words, pathlib.Path)
        words = read_bert_tokenizer(words)
    model = read_image_reward(path, found.dtype, found.config)
    return ImageReward(model, words, **options)


IMAGE_REWARD = PublishedReward(
    name="imagereward",
    reward=ImageReward,
    files=HubFiles(
        "zai-org/ImageReward",
        "5736be03b2652728fb87788c9797b0570450ab72",
        ("ImageReward.pt", "med_config.json"),
    ),
    license="Apache-2.0",
    size="1.8 GB",
    preprocessing=CLIP_PIXELS,
    range="about -2 to 2, not bounded",
    compared_with="transformers' BLIP",
    build=_build,
    from_files=("model", "tokenizer"),
    tokenizer=TokenizerFiles(BertTokenizer, _VOCABULARY),
    config=ImageRewardConfig,
)
