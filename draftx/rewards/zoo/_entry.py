"""What is known of a published reward before its files are read."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from ...io import EmbeddedFolder, HubFiles, PackageFile, TorchFile
from ...judges import BertTokenizer, ImageRewardConfig
from ...models import CLIPConfig, CLIPTokenizer
from ..contract import AbstractReward


Files: TypeAlias = HubFiles | PackageFile | TorchFile | EmbeddedFolder
PathLike: TypeAlias = str | os.PathLike
Tokenizer: TypeAlias = CLIPTokenizer | BertTokenizer
Config: TypeAlias = CLIPConfig | ImageRewardConfig


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """Says which tokenizer a reward reads with, and where it is published.

    **Arguments:**

    - `cls`: Of the tokenizer.
    - `files`: What is downloaded if there is none beside the weights.
    - `also`: Other sets of files that make one, if they are in the folder of weights.
    """

    cls: type[Tokenizer]
    files: HubFiles
    also: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Found:
    """Holds what a reward is built of, all of it on this machine.

    **Arguments:**

    - `weights`: A file, or a folder.
    - `encoder`: The folder of the encoder, for an entry that has one apart.
    - `tokenizer`: One that is loaded, or the path of one.
    - `dtype`: Of the weights.
    - `config`: What the weights do not say of themselves, of the entry's class, or a
        file that says it; `None` is what is beside them, or else the published one.
    """

    weights: pathlib.Path
    encoder: pathlib.Path | None
    tokenizer: Tokenizer | pathlib.Path | None
    dtype: np.dtype
    config: Any = None


@dataclasses.dataclass(frozen=True)
class PublishedReward:
    """Describes a reward before its files are read, and builds it of them.

    **Arguments:**

    - `name`: What `draftx.rewards.load` is given.
    - `reward`: The class.
    - `files`: Where its weights are, at which revision, with which digest. One of the
        hub's is there if it is known from more than one place; else what the hub gives
        is compared with the digest that the hub states.
    - `license`: Of the weights.
    - `size`: Of the files.
    - `preprocessing`: What becomes of images in $[0, 1]$.
    - `range`: Of the scores.
    - `compared_with`: What its scores and gradients are tested against.
    - `build`: Makes the reward of what was found and of the options.
    - `from_files`: Parameters of the class that `build` reads: they are no options.
    - `tokenizer`: For a reward that reads prompts.
    - `encoder`: The files of an encoder that comes apart from the weights.
    - `any_dtype`: Whether the weights may be other than float32.
    - `config`: The class of their config, if it does not come in one folder with them.
    """

    name: str
    reward: type[AbstractReward]
    files: Files
    license: str
    size: str
    preprocessing: str
    range: str
    compared_with: str
    build: Callable[[Found, Mapping[str, Any]], AbstractReward]
    from_files: tuple[str, ...]
    tokenizer: TokenizerFiles | None = None
    encoder: HubFiles | None = None
    any_dtype: bool = True
    config: type[Config] | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the weights are a folder with their config; else they are a file."""
        if isinstance(self.files, EmbeddedFolder):
            return True
        return isinstance(self.files, HubFiles) and "config.json" in self.files.names
