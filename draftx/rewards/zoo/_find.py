"""From what a user says of a reward's weights to files on this machine."""

import os
import pathlib
from typing import Any, TypeAlias

import numpy as np

from ...io import (
    EmbeddedFolder,
    fetch,
    HubFiles,
    is_repo_id,
    ModelFileError,
    PackageFile,
    TorchFile,
)
from ._entry import (
    Config,
    Files,
    Found,
    PathLike,
    PublishedReward,
    Tokenizer,
    TokenizerFiles,
)


# What is here already, or says where it is.
_Wanted: TypeAlias = Files | pathlib.Path | Tokenizer | None


def find(
    entry: PublishedReward,
    source: PathLike | None,
    *,
    encoder: PathLike | None = None,
    tokenizer: Any = None,
    config: Any = None,
    dtype: np.dtype,
) -> Found:
    """Finds all files of a reward, or downloads them.

    **Arguments:** those of [`draftx.rewards.load`][], where `encoder` is `clip`.
    """
    config = _config(config, entry)
    weights = _weights(entry, source, entry.files, entry.is_folder)
    wanted: list[_Wanted] = [weights, None, None]
    if entry.encoder is not None:
        wanted[1] = _weights(entry, encoder, entry.encoder, is_folder=True)
    if entry.tokenizer is not None:
        wanted[2] = _tokenizer(tokenizer, weights, entry.tokenizer)
    path, of_encoder, words = _resolve(wanted, f"the reward {entry.name!r}")
    return Found(path, of_encoder, words, dtype, config)


def _weights(
    entry: PublishedReward, source: PathLike | None, files: Files, is_folder: bool
) -> pathlib.Path | Files:
    """What is there already, or what has to be found."""
    if source is None:
        return files
    path = pathlib.Path(source)
    if path.exists():
        if path.is_dir() != is_folder:
            kind = "a folder with config.json and model.safetensors"
            kind = kind if is_folder else "a single file"
            raise ModelFileError(
                f"The weights of {entry.name!r} must be {kind}; got {str(path)!r}."
            )
        return path
    if isinstance(source, str) and is_repo_id(source) and is_folder:
        return HubFiles(source, None, ("config.json", "model.safetensors"))
    raise ModelFileError(
        f"The weights of {entry.name!r} must be a file or folder that exists; got "
        f"{str(source)!r}. With `None` the published ones are used."
    )


def _config(config: Any, entry: PublishedReward) -> Config | pathlib.Path | None:
    """A config that is an object, or the path of one, which is there."""
    if config is None:
        return None
    if entry.config is None:
        raise ValueError(
            f"`config` must be None for {entry.name!r}: its file, or the `config.json` "
            f"beside it, says what it is; got {config!r}."
        )
    if isinstance(config, entry.config):
        return config
    if not isinstance(config, str | os.PathLike):
        raise ValueError(
            f"`config` must be a {entry.config.__name__} or the path of one for "
            f"{entry.name!r}; got a {type(config).__name__}."
        )
    path = pathlib.Path(config)
    if not path.is_file():
        raise ModelFileError(
            f"`config` must be a file that exists; got {str(config)!r}."
        )
    return path


def _tokenizer(
    tokenizer: Any, weights: pathlib.Path | Files, published: TokenizerFiles
) -> _Wanted:
    """A tokenizer that is loaded, or the path of one, or what has to be downloaded."""
    if isinstance(tokenizer, published.cls):
        return tokenizer
    if not isinstance(tokenizer, str | os.PathLike | None):
        raise ValueError(
            f"`tokenizer` must be a {published.cls.__name__}, or the path of one; got "
            f"a {type(tokenizer).__name__}."
        )
    if tokenizer is not None:
        return pathlib.Path(tokenizer)
    if isinstance(weights, EmbeddedFolder):
        return weights
    if isinstance(weights, pathlib.Path):
        folder, sets = weights.parent, (published.files.names,)
        if weights.is_dir():
            folder, sets = weights, sets + published.also
        if any(all((folder / n).is_file() for n in names) for names in sets):
            return folder
    return published.files


def _resolve(wanted: list[_Wanted], what: str) -> list[Any]:
    """Finds or downloads; a repository with one file gives that file.

    **Arguments:**

    - `wanted`: Paths and what is here already stay as they are.
    - `what`: Needs them, for the error text.
    """
    missing = [item for item in wanted if isinstance(item, HubFiles)]
    folders = iter(fetch(missing, what) if missing else [])
    resolved = []
    for item in wanted:
        if isinstance(item, HubFiles):
            folder = next(folders)
            item = folder / item.names[0] if len(item.names) == 1 else folder
        elif isinstance(item, PackageFile | TorchFile | EmbeddedFolder):
            item = item.find(what)
        resolved.append(item)
    return resolved
