"""Numbers that may be meant as the alpha of layers, though not all readers ask them."""

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..formats import TensorFile


_HEARSAY = re.compile(
    r"(?:(?P<model>unet|text_encoder)\.)?(?:ss_)?(?:lora_|network_)?alpha"
)


def is_hearsay(name: str) -> bool:
    """Whether a field `name` of a header looks like one of an alpha."""
    return _HEARSAY.fullmatch(name) is not None


class Alpha(NamedTuple):
    """Holds what is said of one layer: its rank, and its alpha or `None`."""

    rank: int
    alpha: float | None


def warn_of_hearsay(
    file: TensorFile, said: Mapping[str, Alpha], beside: Mapping[str, Any] | None
) -> None:
    """Warns where a file may mean another scale than 1, which it is loaded with.

    **Arguments:**

    - `file`: Of the adapter.
    - `said`: By layer, what those say that all readers ask.
    - `beside`: What is in an `adapter_config.json` that belongs to another file name.
    """
    silent: dict[str, Alpha] = {}
    for model in sorted({layer.split(".")[0] for layer in said}):
        of_model = {k: v for k, v in said.items() if k.startswith(f"{model}.")}
        alphas = Counter(v.alpha for v in of_model.values() if v.alpha is not None)
        if not alphas:
            silent |= of_model
            continue
        # Diffusers gives the alpha that most layers of a model have to its others.
        commonest, _ = alphas.most_common(1)[0]
        ranks = [v.rank for v in of_model.values() if v.alpha is None]
        _warn_of_some(file.name, model, commonest, ranks)
    found = list(_hearsay(file.metadata))
    found += [
        (f"{k} of adapter_config.json", m, v) for k, m, v in _hearsay(beside or {})
    ]
    for key, model, value in found:
        ranks = [v.rank for k, v in silent.items() if k.startswith(model or "")]
        # `scale=` multiplies all layers.
        is_whole = len(ranks) == len(said) and len(set(ranks)) == 1
        _warn(file.name, f"`{key}` is {value:g}", value, ranks, is_whole)


def _warn(name: str, what: str, alpha: float, ranks: list[int], is_whole: bool) -> None:
    others = sorted({rank for rank in ranks if rank != alpha})
    if not others:
        return
    hint = f"; pass `scale={alpha / others[0]:g}` if that is meant"
    warnings.warn(
        f"{name!r} has layers without an alpha beside their factors or in PEFT's "
        f"config, but {what}. They are loaded with scale 1, as kohya's scripts and "
        "diffusers read files without alpha. Read as their alpha, that number is a "
        f"scale of {_scales(alpha, others)}{hint if is_whole else ''}.",
        stacklevel=6,
    )


def _warn_of_some(name: str, model: str, alpha: float, ranks: list[int]) -> None:
    others = sorted({rank for rank in ranks if rank != alpha})
    if not others:
        return
    warnings.warn(
        f"{name!r} has an alpha beside the factors of some layers of the {model}, and "
        f"none for {len(ranks)} others. Those others are loaded with scale 1, as "
        "kohya's scripts read them. Diffusers gives them the alpha that is commonest "
        f"in the {model}, {alpha:g}, which is a scale of {_scales(alpha, others)}. If "
        f"that is meant, write `<layer>.alpha` tensors of {alpha:g} for them into the "
        "file; `scale=` would change the layers that have an alpha too.",
        stacklevel=6,
    )


def _scales(alpha: float, ranks: list[int]) -> str:
    return ", ".join(f"{alpha / rank:g} at rank {rank}" for rank in ranks)


def _hearsay(header: Mapping[str, Any]) -> Iterator[tuple[str, str | None, float]]:
    """Numbers in a header that look like an alpha: the key, the model, the number."""
    for key, value in header.items():
        if key == "lora_adapter_metadata":
            continue
        if match := _HEARSAY.fullmatch(key):
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue  # "None", as kohya's scripts write it.
            if math.isfinite(number):
                yield key, match["model"], number
        elif isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                inner = json.loads(value)
            except (ValueError, RecursionError):
                continue
            yield from ((f"{key}: {k}", model, v) for k, model, v in _hearsay(inner))
