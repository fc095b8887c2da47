"""HPSv2, of versions 2 and 2.1."""

from collections.abc import Mapping
from typing import Any

from ...io import HubFiles, read_open_clip, VIT_H_14
from ...models import CLIPConfig
from ..contract import AbstractReward
from ..preference import HPSv2
from ._clip import CLIP_TOKENIZER, clip_tokenizer
from ._entry import Found, PublishedReward


def _build(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    model = read_open_clip(found.weights, found.dtype, found.config, VIT_H_14)
    tokenizer = clip_tokenizer(found, model.config.text.vocab_size)
    return HPSv2(model, tokenizer, **options)


def _entry(name: str, file: str, sha256: Mapping[str, str]) -> PublishedReward:
    return PublishedReward(
        name=name,
        reward=HPSv2,
        files=HubFiles(
            "xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a", (file,), sha256
        ),
        license="Apache-2.0",
        size="2.0 GB",
        preprocessing=(
            "longest edge 224, bicubic, antialiased; padded black; CLIP mean and std"
        ),
        range="[-1, 1], 0.2 to 0.35",
        compared_with="open_clip-shaped reference, open_clip's tokenizer",
        build=_build,
        from_files=("model", "tokenizer"),
        tokenizer=CLIP_TOKENIZER,
        config=CLIPConfig,
    )


HPSV2 = _entry("hpsv2", "HPS_v2_compressed.pt", {})
HPSV2_1 = _entry(
    "hpsv2.1",
    "HPS_v2.1_compressed.pt",
    {
        "HPS_v2.1_compressed.pt": (
            "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837"
        )
    },
)
