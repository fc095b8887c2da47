"""Names of the files of weights in a folder: whole, in shards, or of a variant."""

import pathlib
import re
from collections.abc import Iterable, Iterator

from ._errors import first_five


# How the files after the stem are called, with `{}` for the variant and its dot. Shards
# of a variant had its name at the end before diffusers 0.32, and in their index too.
_WHOLE = ("{}.safetensors",)
_INDEX = (".safetensors.index{}.json", ".safetensors{}.index.json")
_SHARDS = ("{}-?????-of-?????.safetensors", "-?????-of-?????{}.safetensors")


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


def weight_patterns(stem: str, variant: str | None) -> list[str]:
    """Lists the names that weights may have, `?` for any letter.

    **Arguments:**

    - `stem`: Such as `"model"`.
    - `variant`: Such as `"fp16"`; `None` for the files without one.
    """
    suffixes = (*_WHOLE, *_SHARDS, *_INDEX)
    return [*dict.fromkeys(_named(stem, variant, suffixes))]


def find_weights(
    folder: pathlib.Path, stem: str, variant: str | None
) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """Finds the file of weights, or else the index of its shards.

    **Arguments:**

    - `folder`: Of one model.
    - `stem`, `variant`: As for `weight_patterns`.
    """
    found = []
    for suffixes in (_WHOLE, _INDEX):
        paths = [folder / name for name in _named(stem, variant, suffixes)]
        found.append(next((path for path in paths if path.is_file()), None))
    return (found[0], found[1])


def has_weights(folder: pathlib.Path, stem: str, variant: str | None) -> bool:
    """Says whether a folder has weights of this variant.

    **Arguments:**

    - `folder`, `stem`, `variant`: As for `find_weights`.
    """
    return any(path is not None for path in find_weights(folder, stem, variant))


def describe_files(names: Iterable[str], *stems: str) -> str:
    """Says which files of weights are there instead, and how to ask for them.

    **Arguments:**

    - `names`: Of the files in a folder.
    - `stems`: Each as for `weight_patterns`.
    """
    names = sorted(names)
    stem = "|".join(map(re.escape, stems))
    variants: dict[str, list[str]] = {}
    for name in names:
        match = re.fullmatch(
            rf"(?:{stem})(-\d+-of-\d+)?\.([\w-]+?)(-\d+-of-\d+)?\.safetensors",
            name,
        )
        if match:
            variants.setdefault(match[2], []).append(name)
    texts = [
        f" It holds {first_five(files)}: pass `variant={variant!r}` to `draftx.load` "
        "or `draftx.io.load_component` to read that, or rename it."
        for variant, files in variants.items()
    ]
    pickles = [name for name in names if name.endswith((".bin", ".ckpt"))]
    if pickles:
        texts.append(f" {first_five(pickles)} is not read: draftx reads no pickles.")
    return "".join(texts)


def _named(stem: str, variant: str | None, suffixes: Iterable[str]) -> Iterator[str]:
    part = "" if variant is None else f".{variant}"
    return (stem + suffix.format(part) for suffix in suffixes)
