"""Rewards by name, from the files that they were published as."""

import os
import pathlib
from typing import Any

import numpy as np

from ...io import (
    check_dtype,
    ModelFileError,
    read_aesthetic_head,
    read_bert_tokenizer,
    read_clip,
    read_image_reward,
    read_json,
    read_network,
    read_open_clip,
    read_owlvit,
    read_tokenizer,
    VIT_H_14,
)
from ...judges import (
    BertTokenizer,
    CLIPModel,
    CLIPVisionModelWithProjection,
    EfficientNetLite,
    ResNet,
)
from ...models import CLIPTokenizer
from ..contract import AbstractReward
from ..perception import (
    ClassifierReward,
    DetectionReward,
    LPIPS,
    LPIPSSimilarity,
    ResizeAndCrop,
)
from ..preference import AestheticScore, CLIPScore, HPSv2, ImageReward, PickScore
from ._published import BERT_TOKENIZER, PUBLISHED, TOKENIZER
from ._sources import (
    check_name,
    check_options,
    resolve,
    wanted_tokenizer,
    wanted_weights,
)


_CLASSES: dict[str, Any] = {
    "AestheticScore": AestheticScore,
    "ClassifierReward": ClassifierReward,
    "CLIPScore": CLIPScore,
    "DetectionReward": DetectionReward,
    "HPSv2": HPSv2,
    "ImageReward": ImageReward,
    "LPIPSSimilarity": LPIPSSimilarity,
    "PickScore": PickScore,
}
_PROMPTED = ("CLIPScore", "DetectionReward", "HPSv2", "ImageReward", "PickScore")


def load(
    name: str,
    source: str | os.PathLike | None = None,
    *,
    clip: str | os.PathLike | None = None,
    tokenizer: CLIPTokenizer | BertTokenizer | str | os.PathLike | None = None,
    dtype: Any = None,
    **options: Any,
) -> AbstractReward:
    """Loads a reward with its published weights.

    **Arguments:**

    - `name`: One of [`draftx.rewards.names`][]; [`draftx.rewards.published`][] tells
        what it is.
    - `source`: The weights: a file, or for `"clip"`, `"pickscore"` and `"owlvit"` a
        folder with `config.json` and `model.safetensors`, or a repository of one, such
        as `"openai/clip-vit-base-patch32"`. `None` is the published ones, at a fixed
        revision and checked by their digest where it is known; they are downloaded
        once.
    - `clip`: For `"aesthetic"` only: the folder of CLIP ViT-L/14. `None` downloads it.
    - `tokenizer`: For rewards that read: one that is loaded, such as
        `pipeline.tokenizer` of Stable Diffusion, or the folder of one. `None` is the
        one beside the weights in `source`, if there is one; else it is downloaded.
    - `dtype`: Of the weights, and what is computed in: float32 if `None`. Embeddings
        are compared in float32. Classifiers and LPIPS are float32 always.
    - `options`: Keyword arguments of the reward, such as `scale`, `queries` for
        `"owlvit"`, `target` for a classifier, or `references` for LPIPS.

    **Returns:**

    The reward. A file that is damaged or does not fit is a
    [`draftx.io.ModelFileError`][].
    """
    dtype = check_dtype(dtype)
    check_name(name)
    kind = PUBLISHED[name].reward
    # What can be said without the files is said before they are downloaded.
    _check_inputs(name, clip=clip, tokenizer=tokenizer, dtype=dtype)
    check_options(name, _CLASSES[kind], options)
    if kind in _PROMPTED:
        return _load_prompted(name, source, tokenizer, dtype, options)
    if kind == "AestheticScore":
        wanted = [wanted_weights(name, source), wanted_weights("clip", clip)]
        head, folder = resolve(wanted, name)
        encoder = read_clip(CLIPVisionModelWithProjection, folder, dtype)
        return AestheticScore(encoder, read_aesthetic_head(head), **options)
    if kind == "LPIPSSimilarity":
        architecture = name.removeprefix("lpips-")
        return LPIPSSimilarity(load_lpips(architecture, source), **options)
    (path,) = resolve([wanted_weights(name, source)], name)
    if path.is_dir():
        options = _described(path / "config.json") | options
        path = path / "model.safetensors"
    network = EfficientNetLite if name == "efficientnet-lite0" else ResNet
    return ClassifierReward(read_network(network.from_arrays, path), **options)


def load_lpips(architecture: str, source: str | os.PathLike | None = None) -> LPIPS:
    """Loads the distance LPIPS, version 0.1, which is no reward by itself.

    **Arguments:**

    - `architecture`: `"vgg"` or `"alex"`.
    - `source`: torchvision's file of the network. `None` is the published one, as for
        [`draftx.rewards.load`][].
    """
    name = f"lpips-{architecture}"
    if name not in PUBLISHED:
        raise ValueError(
            f"`architecture` must be 'vgg' or 'alex'; got {architecture!r}."
        )
    (path,) = resolve([wanted_weights(name, source)], name)
    lpips = read_network(LPIPS.from_arrays, path)
    expected = {"vgg": "vgg16", "alex": "alexnet"}[architecture]
    if lpips.trunk.architecture != expected:
        raise ModelFileError(
            f"{str(path)!r} must hold the weights of {expected}; they are those of "
            f"{lpips.trunk.architecture}."
        )
    return lpips


def _load_prompted(
    name: str, source: Any, tokenizer: Any, dtype: np.dtype, options: dict[str, Any]
) -> AbstractReward:
    """A reward that has a tokenizer."""
    kind = PUBLISHED[name].reward
    weights = wanted_weights(name, source)
    default = BERT_TOKENIZER if kind == "ImageReward" else TOKENIZER
    wanted = [weights, wanted_tokenizer(tokenizer, weights, default)]
    path, words = resolve(wanted, name)
    if kind == "ImageReward":
        path = path / "ImageReward.pt" if path.is_dir() else path
        if not isinstance(words, BertTokenizer):
            words = read_bert_tokenizer(words)
        return ImageReward(read_image_reward(path, dtype), words, **options)
    if kind == "DetectionReward":
        model = read_owlvit(path, dtype)
    elif kind == "HPSv2":
        model = read_open_clip(path, dtype, VIT_H_14)
    else:
        model = read_clip(CLIPModel, path, dtype)
    if not isinstance(words, CLIPTokenizer):
        words = read_tokenizer(words, model.config.text.vocab_size)
    return _CLASSES[kind](model, words, **options)


def _described(path: pathlib.Path) -> dict[str, Any]:
    """What the config beside a classifier says of its classes and pictures."""
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


def _check_inputs(name: str, *, clip: Any, tokenizer: Any, dtype: np.dtype) -> None:
    """Raises for what this reward has no use for."""
    kind = PUBLISHED[name].reward
    if clip is not None and kind != "AestheticScore":
        raise ValueError(
            f"`clip` must be None for {name!r}, which has its weights in `source`; got "
            f"{str(clip)!r}."
        )
    if tokenizer is not None and kind not in _PROMPTED:
        raise ValueError(
            f"`tokenizer` must be None for {name!r}, which looks at no prompt."
        )
    if dtype != np.float32 and kind in ("ClassifierReward", "LPIPSSimilarity"):
        raise ValueError(
            f"`dtype` must be None or float32 for {name!r}; got {dtype.name}."
        )
