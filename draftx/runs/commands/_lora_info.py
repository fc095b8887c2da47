"""`draftx lora info`: what is in a file of an adapter."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import tyro

from ...io import describe_lora


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraInfoOptions:
    """Prints what a file of an adapter is; the model it belongs to is not needed."""

    file: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="FILE", help="A .safetensors file, or its folder."),
    ]


def info(options: LoraInfoOptions) -> None:
    """Prints what a file of an adapter is.

    **Arguments:**

    - `options`: Of the command line.
    """
    about = describe_lora(options.file)
    dtypes = "/".join(about["dtypes"])
    rows = {
        "file": about["file"],
        "format": ", ".join(about["formats"]),
        "made for": "; ".join(about["made_for"]) or "not said",
        "rank": _counts(about["ranks"]),
        "alpha": _counts(about["alphas"]),
        "scale": f"{_counts(about['scales'])} (alpha / rank)",
        "layers": _counts(about["layers"], "{value} {count}"),
        "parameters": f"{about['parameters']:,}, {dtypes}",
    }
    notes = {name.replace("_", " "): text for name, text in about["notes"].items()}
    rows |= notes
    width = max(10, *map(len, rows))
    print("\n".join(f"{name:>{width}}  {text}" for name, text in rows.items()))


def _counts(found: Mapping[Any, int], each: str = "{value} on {count} layers") -> str:
    """One value alone, or how often there is each."""
    texts = {
        value: f"{value:g}" if isinstance(value, float) else str(value)
        for value in found
    }
    texts |= {None: "not said"} if None in found else {}
    if len(found) == 1 and each != "{value} {count}":
        return next(iter(texts.values()))
    return ", ".join(
        each.format(value=texts[value], count=count) for value, count in found.items()
    )
