"""Names of the files of weights in a folder: whole, in shards, or of a variant."""

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ._errors import first_five


# How the files after the stem are called, with `{v}` for the variant and its dot and
# `{e}` for the ending. Shards of a variant had its name at the end before diffusers
# 0.32, and in their index too.
_WHOLE = ("{v}{e}",)
_INDEX = ("{e}.index{v}.json", "{e}{v}.index.json")
_SHARDS = ("{v}-?????-of-?????{e}", "-?????-of-?????{v}{e}")
# In the order of what is read first.
_ENDINGS = (".safetensors", ".bin")
# What transformers calls a file of PyTorch.
_PICKLED_STEMS = {"model": "pytorch_model"}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


class WeightKind(NamedTuple):
    """Says which of the files of weights in a folder are meant.

    **Arguments:**

    - `variant`: Such as `"fp16"`; `None` for the files without one.
    - `ending`: `".safetensors"`, or `".bin"` for files of PyTorch.
    """

    variant: str | None
    ending: str


def weight_kinds(variant: str | None) -> list[WeightKind]:
    """Lists what is read of a folder: the first of these that it has.

    **Arguments:**

    - `variant`: That was asked for. With `None` those in float16 are read where there
        are no others.
    """
    variants = (None, "fp16") if variant is None else (variant,)
    return [WeightKind(name, ending) for ending in _ENDINGS for name in variants]


def check_variant(variant: str | None) -> str | None:
    """Raises unless a variant can be part of a file's name.

    **Arguments:**

    - `variant`: As a user wrote it; `None` for none.
    """
    if variant is None or (
        isinstance(variant, str) and re.fullmatch(r"\w[\w-]*", variant, re.ASCII)
    ):
        return variant
    raise ValueError(
        "`variant` must be None or the part of the file's name before "
        f'".safetensors", such as "bf16"; got {variant!r}.'
    )


def weight_patterns(stem: str, kind: WeightKind) -> list[str]:
    """Lists the names that weights may have, `?` for any letter.

    **Arguments:**

    - `stem`: Such as `"model"`.
    - `kind`: Of the files.
    """
    suffixes = (*_WHOLE, *_SHARDS, *_INDEX)
    return [*dict.fromkeys(_named(stem, kind, suffixes))]


def find_weights(
    folder: pathlib.Path, stem: str, kind: WeightKind
) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """Finds the file of weights, or else the index of its shards.

    **Arguments:**

    - `folder`: Of one model.
    - `stem`, `kind`: As for `weight_patterns`.
    """
    found = []
    for suffixes in (_WHOLE, _INDEX):
        paths = [folder / name for name in _named(stem, kind, suffixes)]
        found.append(next((path for path in paths if path.is_file()), None))
    return (found[0], found[1])


def has_weights(folder: pathlib.Path, stem: str, kinds: Iterable[WeightKind]) -> bool:
    """Says whether a folder has weights of one of these kinds.

    **Arguments:**

    - `folder`, `stem`: As for `find_weights`.
    - `kinds`: As `weight_kinds` lists them.
    """
    return any(any(find_weights(folder, stem, kind)) for kind in kinds)


def describe_files(names: Iterable[str], *stems: str) -> str:
    """Says which files of weights are there instead, and how to ask for them.

    **Arguments:**

    - `names`: Of the files in a folder.
    - `stems`: Each as for `weight_patterns`.
    """
    names = sorted(names)
    stem = "|".join(re.escape(name) for s in stems for name in {s, _pickled(s)})
    variants: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(
            rf"(?:{stem})(-\d+-of-\d+)?\.([\w-]+?)(-\d+-of-\d+)?\.(safetensors|bin)",
            name,
        )
        if match:
            variants.setdefault(match[2], []).append(name)
    texts = [
        f" It holds {first_five(files)}: pass `variant={variant!r}` to `draftx.load` "
        "or `draftx.io.load_component` to read that, or rename it."
        for variant, files in variants.items()
    ]
    known = {name for files in variants.values() for name in files}
    others = [n for n in names if n.endswith(_PICKLES) and n not in known]
    if others:
        wanted = first_five(f"{_pickled(s)}.bin" for s in stems)
        texts.append(f" {first_five(others)} is not read: it must be called {wanted}.")
    return "".join(texts)


def _pickled(stem: str) -> str:
    return _PICKLED_STEMS.get(stem, stem)


def _named(stem: str, kind: WeightKind, suffixes: Iterable[str]) -> Iterator[str]:
    variant = "" if kind.variant is None else f".{kind.variant}"
    stem = _pickled(stem) if kind.ending == ".bin" else stem
    return (stem + suffix.format(v=variant, e=kind.ending) for suffix in suffixes)
