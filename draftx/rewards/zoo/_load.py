"""Rewards by name, from the files that they were published as."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...io import check_dtype, is_repo_id
from ...judges import BertTokenizer, ImageRewardConfig
from ...models import CLIPConfig, CLIPTokenizer
from ..contract import AbstractReward
from ._catalogue import PUBLISHED
from ._entry import PathLike, PublishedReward
from ._find import find


def names() -> tuple[str, ...]:
    """Lists the rewards that [`draftx.rewards.load`][] knows."""
    return tuple(PUBLISHED)


def published(name: str) -> PublishedReward:
    """Describes the reward that [`draftx.rewards.load`][] gives.

    **Arguments:**

    - `name`: One of [`draftx.rewards.names`][].
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    hint = ""
    if os.path.exists(name) or is_repo_id(name):
        hint = f' Say which reward it is: `load("clip", {name!r})`.'
    known = ", ".join(map(repr, PUBLISHED))
    raise ValueError(f"`name` must be one of {known}; got {name!r}.{hint}")


def load(
    name: str,
    source: PathLike | None = None,
    *,
    clip: PathLike | None = None,
    tokenizer: CLIPTokenizer | BertTokenizer | PathLike | None = None,
    config: CLIPConfig | ImageRewardConfig | PathLike | None = None,
    dtype: Any = None,
    options: Mapping[str, Any] | None = None,
) -> AbstractReward:
    """Loads a reward with its published weights.

        load("clip")
        load("pickscore", options={"scale": 1.0}, dtype="bfloat16")
        load("owlvit", options={"queries": ["strawberries"]})

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
    - `config`: For weights of your own that come without one. For `"hpsv2"` and
        `"hpsv2.1"` a `CLIPConfig` or the path of open_clip's description or of the
        `config.json` of a `CLIPModel`; `None` is `open_clip_config.json` beside the
        weights, or else the published ViT-H/14. For `"imagereward"` an
        [`draftx.judges.ImageRewardConfig`][], or the path of a `med_config.json`, which
        says it of the text encoder; one beside the weights does so by itself.
    - `dtype`: Of the weights, and what is computed in: float32 if `None`. Embeddings
        are compared in float32. Classifiers and LPIPS are float32 always.
    - `options`: Arguments of the reward's class by name, such as `scale`, `remat`,
        `queries` for `"owlvit"`, `target` for a classifier, or `references` for LPIPS.

    **Returns:**

    The reward. A file that is damaged or does not fit is a
    [`draftx.io.ModelFileError`][].
    """
    dtype = check_dtype(dtype)
    entry = published(name)
    options = {} if options is None else dict(options)
    # What can be said without the files is said before they are downloaded.
    _check_inputs(entry, clip=clip, tokenizer=tokenizer, dtype=dtype)
    _check_options(entry, options)
    found = find(
        entry,
        source,
        encoder=clip,
        tokenizer=tokenizer,
        config=config,
        dtype=dtype,
    )
    return entry.build(found, options)


def _check_inputs(
    entry: PublishedReward, *, clip: Any, tokenizer: Any, dtype: np.dtype
) -> None:
    """Raises for what this reward has no use for."""
    if clip is not None and entry.encoder is None:
        raise ValueError(
            f"`clip` must be None for {entry.name!r}, which has its weights in "
            f"`source`; got {str(clip)!r}."
        )
    if tokenizer is not None and entry.tokenizer is None:
        raise ValueError(
            f"`tokenizer` must be None for {entry.name!r}, which looks at no prompt."
        )
    if dtype != np.float32 and not entry.any_dtype:
        raise ValueError(
            f"`dtype` must be None or float32 for {entry.name!r}; got {dtype.name}."
        )


def _check_options(entry: PublishedReward, options: Mapping[str, Any]) -> None:
    """Raises unless the reward can be made with these arguments."""
    parameters = inspect.signature(entry.reward.__init__).parameters
    has_default = {
        name: parameter.default is not parameter.empty
        for name, parameter in parameters.items()
        if name not in ("self", *entry.from_files)
    }
    known = sorted(has_default)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"`options` of {entry.name!r} must be among {', '.join(known)}; got "
            f"{', '.join(unknown)}."
        )
    missing = [x for x in has_default if not has_default[x] and x not in options]
    if missing:
        raise ValueError(
            f"`{missing[0]}` must be given for {entry.name!r}: "
            f'`load({entry.name!r}, options={{"{missing[0]}": ...}})`, as for '
            f"`draftx.rewards.{entry.reward.__name__}`."
        )
