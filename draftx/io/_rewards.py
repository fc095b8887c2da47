"""Rewards by name, from the files that they were published as."""

import os
import pathlib
from typing import Any

from ..models import CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection
from ..rewards import AbstractReward, AestheticScore, CLIPScore, HPSv2, PickScore
from ._clip import (
    read_aesthetic_head,
    read_clip,
    read_open_clip,
    read_tokenizer,
    VIT_H_14,
)
from ._components import check_dtype
from ._errors import ModelFileError
from ._hub import is_repo_id
from ._hub_files import fetch, HubFiles


_CLIP_FILES = ("config.json", "model.safetensors")
_TOKENIZER_FILES = ("vocab.json", "merges.txt")
_CLIP_L = ("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")
_HPS = ("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a")
_PINNED = {
    "aesthetic": HubFiles(
        "trl-lib/ddpo-aesthetic-predictor",
        "cf4bd10345610935a80a5d3be9a3133c50f121e4",
        ("aesthetic-model.pth",),
    ),
    "clip": HubFiles(*_CLIP_L, _CLIP_FILES),
    "hpsv2": HubFiles(*_HPS, ("HPS_v2_compressed.pt",)),
    "hpsv2.1": HubFiles(*_HPS, ("HPS_v2.1_compressed.pt",)),
    "pickscore": HubFiles(
        "yuvalkirstain/PickScore_v1",
        "a4e4367c6dfa7288a00c550414478f865b875800",
        _CLIP_FILES,
    ),
}
# All of these were trained with the one vocabulary of CLIP.
_TOKENIZER = HubFiles(*_CLIP_L, _TOKENIZER_FILES)


def load_reward(
    name: str,
    source: str | os.PathLike | None = None,
    *,
    clip: str | os.PathLike | None = None,
    tokenizer: CLIPTokenizer | str | os.PathLike | None = None,
    dtype: Any = None,
    **options: Any,
) -> AbstractReward:
    """Loads a reward with its published weights.

    **Arguments:**

    - `name`: `"clip"` ([`draftx.rewards.CLIPScore`][]), `"aesthetic"`
        ([`draftx.rewards.AestheticScore`][]), `"pickscore"`
        ([`draftx.rewards.PickScore`][]), `"hpsv2"` or `"hpsv2.1"`
        ([`draftx.rewards.HPSv2`][]).
    - `source`: The weights. For `"clip"` and `"pickscore"` a folder with `config.json`
        and `model.safetensors` of a `CLIPModel`, or a repository of one, such as
        `"openai/clip-vit-base-patch32"`; for the others a single file, `.pt`, `.pth` or
        `.safetensors`. `None` downloads the published ones at a fixed revision, once.
    - `clip`: For `"aesthetic"` only: the folder of CLIP ViT-L/14. `None` downloads it.
    - `tokenizer`: One that is loaded, such as `pipeline.tokenizer` of Stable Diffusion,
        or the folder of one. `None` is the one in the folder `source`, if it has one;
        else it is downloaded.
    - `dtype`: Of the weights, and what is computed in: float32 if `None`. Embeddings
        are compared in float32.
    - `options`: Keyword arguments of the reward, such as `scale` or `remat`.

    **Returns:**

    The reward. A file that is damaged or does not fit is a
    [`draftx.io.ModelFileError`][].
    """
    dtype = check_dtype(dtype)
    if name not in _PINNED:
        hint = ""
        if os.path.exists(name) or is_repo_id(name):
            hint = f' Say which reward it is: `load_reward("clip", {name!r})`.'
        raise ValueError(
            f"`name` must be one of {', '.join(map(repr, _PINNED))}; got {name!r}."
            f"{hint}"
        )
    if clip is not None and name != "aesthetic":
        raise ValueError(
            f"`clip` must be None for {name!r}, whose `source` is a whole CLIP; got "
            f"{str(clip)!r}."
        )
    if name == "aesthetic":
        if tokenizer is not None:
            raise ValueError(
                "`tokenizer` must be None for 'aesthetic', which looks at no prompt."
            )
        wanted = [_wanted(name, source), _wanted("clip", clip)]
        head, folder = _resolve(wanted, name)
        encoder = read_clip(CLIPVisionModelWithProjection, folder, dtype)
        return AestheticScore(encoder, read_aesthetic_head(head), **options)
    weights = _wanted(name, source)
    wanted = [weights, _wanted_tokenizer(tokenizer, weights)]
    path, words = _resolve(wanted, name)
    if name.startswith("hps"):
        model = read_open_clip(path, dtype, VIT_H_14)
    else:
        model = read_clip(CLIPModel, path, dtype)
    if not isinstance(words, CLIPTokenizer):
        words = read_tokenizer(words, model)
    cls = {"clip": CLIPScore, "pickscore": PickScore}.get(name, HPSv2)
    return cls(model, words, **options)


def _wanted(name: str, source: Any) -> pathlib.Path | HubFiles:
    """What is there already, or what has to be fetched."""
    if source is None:
        return _PINNED[name]
    path = pathlib.Path(source)
    if path.exists():
        is_folder = name in ("clip", "pickscore")
        if path.is_dir() != is_folder:
            kind = "a folder with config.json and model.safetensors"
            kind = kind if is_folder else "a single file"
            raise ModelFileError(
                f"The weights of {name!r} must be {kind}; got {str(path)!r}."
            )
        return path
    if isinstance(source, str) and is_repo_id(source) and name in ("clip", "pickscore"):
        return HubFiles(source, None, _CLIP_FILES)
    raise ModelFileError(
        f"The weights of {name!r} must be a file or folder that exists; got "
        f"{str(source)!r}. With `None` they are downloaded."
    )


def _wanted_tokenizer(tokenizer: Any, weights: pathlib.Path | HubFiles) -> Any:
    if isinstance(tokenizer, CLIPTokenizer):
        return tokenizer
    if tokenizer is not None:
        return pathlib.Path(tokenizer)
    if isinstance(weights, pathlib.Path) and weights.is_dir():
        sets = (_TOKENIZER_FILES, ("tokenizer.json",))
        if any(all((weights / n).is_file() for n in names) for names in sets):
            return weights
    return _TOKENIZER


def _resolve(wanted: list[Any], name: str) -> list[Any]:
    """Fetches what is to be fetched; a repository with one file gives that file."""
    missing = [item for item in wanted if isinstance(item, HubFiles)]
    folders = iter(fetch(missing, name) if missing else [])
    resolved = []
    for item in wanted:
        if isinstance(item, HubFiles):
            folder = next(folders)
            item = folder / item.names[0] if len(item.names) == 1 else folder
        resolved.append(item)
    return resolved
