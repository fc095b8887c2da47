"""The rewards that come with draftx, for its own scenes: CLIP, classifier, counter."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ..._checks import check_whole
from ...io import EmbeddedFolder, ModelFileError, read_json, read_network
from ...judges import ObjectCounter, ResNet
from ..contract import AbstractReward
from ..perception import ClassifierReward, CountReward, ResizeAndCrop
from ..preference import CLIPScore
from ._clip import CLIP
from ._entry import Found, PublishedReward


_LICENSE = "that of draftx (data: see weights/NOTICE.md)"
_SIZE = "comes with draftx"
_WEIGHTS = "model.safetensors"


def _build_classifier(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    described = _described(found.weights / "config.json")
    path = found.weights / _WEIGHTS
    network = read_network(ResNet.from_arrays, path)
    return ClassifierReward(network, **(described | dict(options)))


def _described(path: pathlib.Path) -> dict[str, Any]:
    """What the config beside a classifier says of its classes and images."""
    config = read_json(path)
    try:
        size = config["image_size"]
        preprocess = ResizeAndCrop(
            resize=size, crop=size, mean=tuple(config["mean"]), std=tuple(config["std"])
        )
        return {"class_names": tuple(config["class_names"]), "preprocess": preprocess}
    except (KeyError, TypeError, ValueError) as e:
        raise ModelFileError(
            f"{str(path)!r} must have a classifier's `image_size`, `mean`, `std` and "
            f"`class_names`: {type(e).__name__}: {e}."
        ) from e


def _build_counter(found: Found, options: Mapping[str, Any]) -> AbstractReward:
    path = found.weights / "config.json"
    try:
        size = check_whole("image_size", read_json(path)["image_size"])
    except (KeyError, ValueError) as e:
        raise ModelFileError(
            f"{str(path)!r} must have a counter's `image_size`: {type(e).__name__}: {e}"
        ) from e
    counter = read_network(ObjectCounter.from_arrays, found.weights / _WEIGHTS)
    # What it does to pixels is inside of it.
    preprocess = ResizeAndCrop(
        resize=size, crop=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    given: dict[str, Any] = {"preprocess": preprocess, **options}
    return CountReward(counter, **given)


TINY_CLIP = PublishedReward(
    name="tiny-clip",
    reward=CLIPScore,
    files=EmbeddedFolder(
        "clip", "40b8ad79583a92138498b9ac2c0258cd57779411da48d848eea20cd5990e0e59"
    ),
    license=_LICENSE,
    size=_SIZE,
    preprocessing="as CLIP's, to the size it was trained on",
    range="[-1, 1]",
    compared_with="`weights/evaluate_rewards.py`",
    build=CLIP.build,
    from_files=CLIP.from_files,
    tokenizer=CLIP.tokenizer,
)
TINY_CLASSIFIER = PublishedReward(
    name="tiny-classifier",
    reward=ClassifierReward,
    files=EmbeddedFolder(
        "classifier", "08cf83fc4da203d6f301d96f7fb6e12af7c33b02e17a8e0d5f79ba47eed63fbe"
    ),
    license=_LICENSE,
    size=_SIZE,
    preprocessing="resized and cropped to the size it was trained on",
    range="at most 0",
    compared_with="`weights/evaluate_rewards.py`",
    build=_build_classifier,
    from_files=("classifier",),
    any_dtype=False,
)
TINY_COUNTER = PublishedReward(
    name="tiny-counter",
    reward=CountReward,
    files=EmbeddedFolder(
        "counter", "b7abe14084840b04145844d6f75b0b52bfe6b9596fc3749dd18cc80d2d337005"
    ),
    license=_LICENSE,
    size=_SIZE,
    preprocessing="resized and cropped to the size it was trained on",
    range="at most 0",
    compared_with="`weights/evaluate_counts.py`",
    build=_build_counter,
    from_files=("counter",),
    any_dtype=False,
)
