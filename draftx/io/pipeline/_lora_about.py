"""What the file of an adapter says of itself, without the model it belongs to."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from ...lora import TARGET_GROUPS
from ..formats import TensorFile
from ._lora import open_lora
from ._lora_alpha import peft_metadata
from ._lora_keys import check_factors, Pair
from ._lora_spelling import SpelledNames


# (what the names of the tensors end in, who writes them so)
_FORMATS: Final = (
    (r"\.to_(q|k|v|out)_lora\.(down|up)\.weight", "diffusers of 2023, attention"),
    (r"\.lora_linear_layer\.(down|up)\.weight", "diffusers, text encoder"),
    (r"\.lora\.(down|up)\.weight", "diffusers' training scripts"),
    (r"\.lora_[AB](\.[^.]+)?\.weight", "PEFT"),
    (r"\.lora_(down|up)\.weight", "kohya's scripts"),
)
# Fields of headers that name the base model: this package's own, of kohya's scripts, of
# ModelSpec, of PEFT.
BASE_MODEL_FIELDS: Final = (
    "base_model",
    "ss_base_model_version",
    "ss_sd_model_name",
    "modelspec.architecture",
    "base_model_name_or_path",
)
# By the width of what cross-attention looks at, which no two families share.
SDXL_WIDTH: Final = 2048
_FAMILIES: Final = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    SDXL_WIDTH: "SDXL, which draftx does not support",
}
# What a run writes of itself, and where other programs have it.
_NOTES: Final = {
    "reward": ("reward",),
    "method": ("method",),
    "trigger_words": ("trigger_words", "modelspec.trigger_phrase"),
    "license": ("license", "modelspec.license"),
    "draftx_version": ("draftx_version",),
}


def describe_lora(path: str | os.PathLike) -> dict[str, Any]:
    """Reads what the file of an adapter is, without its model.

    **Arguments:**

    - `path`: As for [`draftx.load_lora`][].

    **Returns:**

    - `file`: That was read.
    - `formats`: Who names tensors so.
    - `ranks`, `scales`, `dtypes`: How many layers, or tensors, have each: `scales` are
        $\\alpha / r$, which is 1 where the file says nothing.
    - `alphas`: How many layers have each; `None` where the file says nothing.
    - `layers`: How many of each group of `draftx.lora.TARGET_GROUPS`.
    - `parameters`: Numbers in all factors.
    - `made_for`: What is known of the base model, from the header or by the width of
        its cross-attention.
    - `notes`: What the header says of the training, as far as it says it: `reward`,
        `method`, `trigger_words`, `license`, `draftx_version`.

    Adapters that are no plain LoRA are a [`draftx.io.ModelFileError`][].
    """
    file, pairs = open_lora(path, SpelledNames().find)
    for name, pair in pairs.items():
        check_factors(file, name, pair)
    factors = [key for pair in pairs.values() for key in (pair.down, pair.up)]
    ranks = {name: file.shapes[pair.down][0] for name, pair in pairs.items()}
    return {
        "file": file.name,
        "formats": _formats(factors),
        "ranks": _counted(ranks.values()),
        "alphas": _counted(pair.alpha for pair in pairs.values()),
        "scales": _counted(
            1.0 if pair.alpha is None else pair.alpha / ranks[name]
            for name, pair in pairs.items()
        ),
        "layers": _counted(map(_group, pairs)),
        "parameters": sum(int(np.prod(file.shapes[key])) for key in factors),
        "dtypes": _counted(file.dtypes[key] for key in factors),
        "made_for": [*dict.fromkeys(_said(file)), *_family(file, pairs)],
        "notes": dict(_notes(file.metadata)),
    }


def _counted(items: Any) -> dict[Any, int]:
    return dict(Counter(items).most_common())


def _formats(keys: list[str]) -> list[str]:
    found = Counter(
        next((who for pattern, who in _FORMATS if re.search(f"{pattern}$", key)), "")
        for key in (key.replace(".processor.", ".") for key in keys)
    )
    return [who for who, _ in found.most_common()]


def _group(layer: str) -> str:
    # Dots and underscores alike: files of kohya's scripts have no dots.
    plain = layer.replace(".", "_")
    for group, pattern in TARGET_GROUPS.items():
        if re.fullmatch(pattern.replace(r"\.", "_"), plain):
            return group
    return "other"


def _said(file: TensorFile) -> Iterator[str]:
    """What a header says of the base model, PEFT's config in it included."""
    metadata = file.metadata
    yield from (metadata[key] for key in BASE_MODEL_FIELDS if metadata.get(key))
    for key, value in (peft_metadata(file) or {}).items():
        if key.endswith(BASE_MODEL_FIELDS[-1]) and value:
            yield str(value)


def _notes(header: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, fields in _NOTES.items():
        if text := next(filter(None, map(header.get, fields)), None):
            yield name, text


def _family(file: TensorFile, pairs: Mapping[str, Pair]) -> Iterator[str]:
    """What the width of the text's features, in its cross-attention, tells."""
    if any(name.startswith("text_encoder_2.") for name in pairs):
        yield _FAMILIES[SDXL_WIDTH]
        return
    for width in sorted(text_widths(file, pairs)):
        family = _FAMILIES.get(width)
        yield f"cross-attention of width {width}" + (f": {family}" if family else "")


def text_widths(file: TensorFile, pairs: Mapping[str, Pair]) -> set[int]:
    """Finds how many features of the text cross-attention looks at.

    **Arguments:**

    - `file`: Of the adapter.
    - `pairs`: By layer.
    """
    return {
        file.shapes[pair.down][1]
        for name, pair in pairs.items()
        if re.search(r"attn2[._]to_[kv]$", name) and len(file.shapes[pair.down]) > 1
    }
