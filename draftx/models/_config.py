"""Reading the `config.json` files that checkpoints are published with."""

import dataclasses
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """Says that a file describes a model that this library does not implement."""


def check_fixed(
    config: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], model: str
) -> None:
    """Refuses a config in which a field has a value other than the ones implemented.

    **Arguments:**

    - `config`: The parsed file.
    - `fixed`: For each field the values accepted. A missing field is accepted.
    - `model`: Used in the error text.
    """
    for name, accepted in fixed.items():
        if name in config and config[name] not in accepted:
            raise ConfigError(
                f"`{name}` of {model} must be one of {list(accepted)}; got "
                f"{config[name]!r}. This is not a Stable Diffusion 1.x or 2.x model, "
                "and draftx would compute something else than it was trained for."
            )


def known_fields(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the entries that `cls` has fields for, lists turned into tuples.

    **Arguments:**

    - `config`: A parsed `config.json`.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
        if name in names and value is not None
    }
