"""From what a user says of a reward's weights to files on this machine."""

import inspect
import os
import pathlib
from typing import Any

from ...io import (
    EmbeddedFolder,
    fetch,
    HubFiles,
    is_repo_id,
    ModelFileError,
    PackageFile,
    TorchFile,
)
from ...judges import BertTokenizer
from ...models import CLIPTokenizer
from ._published import BERT_TOKENIZER, CLIP_FILES, Files, PUBLISHED, published


# Parameters of rewards that come out of files.
_FROM_FILES = ("self", "model", "tokenizer", "encoder", "head", "classifier", "lpips")


def check_name(name: str) -> None:
    """Raises unless there is a reward of this name."""
    if name in PUBLISHED:
        return
    hint = ""
    if os.path.exists(name) or is_repo_id(name):
        hint = f' Say which reward it is: `load("clip", {name!r})`.'
    try:
        published(name)
    except ValueError as e:
        raise ValueError(f"{e}{hint}") from None


def check_options(name: str, cls: Any, options: dict[str, Any]) -> None:
    """Raises unless a reward can be made with these keyword arguments.

    **Arguments:**

    - `name`: Of the reward.
    - `cls`: Its class.
    - `options`: What `load` was given beside its own arguments.
    """
    required = PUBLISHED[name].arguments
    known = set(inspect.signature(cls.__init__).parameters) - set(_FROM_FILES)
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"`options` of {name!r} must be among {', '.join(sorted(known))}; got "
            f"{', '.join(unknown)}."
        )
    missing = [argument for argument in required if argument not in options]
    if missing:
        raise ValueError(
            f"`{missing[0]}` must be given for {name!r}: "
            f"`load({name!r}, {missing[0]}=...)`, as for `draftx.rewards."
            f"{cls.__name__}`."
        )


def wanted_weights(name: str, source: Any) -> pathlib.Path | Files:
    """What is there already, or what has to be found."""
    spec = PUBLISHED[name]
    if source is None:
        return spec.files
    path = pathlib.Path(source)
    if path.exists():
        if path.is_dir() != spec.is_folder:
            kind = "a folder with config.json and model.safetensors"
            kind = kind if spec.is_folder else "a single file"
            raise ModelFileError(
                f"The weights of {name!r} must be {kind}; got {str(path)!r}."
            )
        return path
    if isinstance(source, str) and is_repo_id(source) and spec.is_folder:
        return HubFiles(source, None, CLIP_FILES)
    raise ModelFileError(
        f"The weights of {name!r} must be a file or folder that exists; got "
        f"{str(source)!r}. With `None` the published ones are used."
    )


def wanted_tokenizer(
    tokenizer: Any, weights: pathlib.Path | Files, default: HubFiles
) -> Any:
    """A tokenizer that is loaded, or the path of one, or what has to be downloaded."""
    cls = BertTokenizer if default is BERT_TOKENIZER else CLIPTokenizer
    if isinstance(tokenizer, cls):
        return tokenizer
    if not isinstance(tokenizer, str | os.PathLike | None):
        raise ValueError(
            f"`tokenizer` must be a {cls.__name__}, or the path of one; got a "
            f"{type(tokenizer).__name__}."
        )
    if tokenizer is not None:
        return pathlib.Path(tokenizer)
    if isinstance(weights, EmbeddedFolder):
        return weights
    if isinstance(weights, pathlib.Path):
        folder = weights if weights.is_dir() else weights.parent
        sets = (default.names, ("tokenizer.json",))
        if default is BERT_TOKENIZER or not weights.is_dir():
            sets = sets[:1]
        if any(all((folder / n).is_file() for n in names) for names in sets):
            return folder
    return default


def resolve(wanted: list[Any], name: str) -> list[Any]:
    """Finds or downloads; a repository with one file gives that file.

    **Arguments:**

    - `wanted`: Paths and what is here already stay as they are.
    - `name`: Of the reward, for the error text.
    """
    what = f"the reward {name!r}"
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
