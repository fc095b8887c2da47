"""Reading the `config.json` files that checkpoints are published with."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any


class ConfigError(ValueError):
    """Says that a file describes a model that this library does not implement."""


def one_value(value: Any) -> Any:
    """Turns a list of equal entries into the entry; anything else stays.

    **Arguments:**

    - `value`: Of a field of a parsed file.
    """
    if isinstance(value, list | tuple) and value:
        if all(entry == value[0] for entry in value):
            return value[0]
    return value


def check_fixed(
    config: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], model: str
) -> None:
    """Refuses a config in which a field has a value other than the ones implemented.

    A missing field is accepted, and so are other words for the same: a list of equal
    values, a name in capitals, and `null`, which means "as if absent" except for
    switches, where it means "off", as it does to the Python that reads the files.

    **Arguments:**

    - `config`: The parsed file.
    - `fixed`: For each field the values accepted.
    - `model`: Used in the error text.
    """
    for name, accepted in fixed.items():
        value = one_value(config.get(name, accepted[0]))
        if value is None:
            value = False if isinstance(accepted[0], bool) else accepted[0]
        elif isinstance(value, str) and value.lower() in accepted:
            value = value.lower()
        if value not in accepted:
            raise ConfigError(
                f"`{name}` of {model} must be one of {list(accepted)}; got "
                f"{config[name]!r}. This is not a Stable Diffusion 1.x or 2.x model, "
                "and draftx would compute something else than it was trained for."
            )


def known_fields(cls: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the entries that `cls` has fields for, in the form of those fields.

    Lists become tuples, or the one value that they repeat where a field takes one;
    `null` means "absent", and "off" for switches.

    **Arguments:**

    - `config`: A parsed `config.json`.
    """
    picked = {}
    for field in dataclasses.fields(cls):
        if field.name not in config:
            continue
        value = config[field.name]
        if isinstance(value, list) and value:
            one = one_value(value)
            is_tuple = one is not None and _takes_tuple(field.type)
            value = tuple(value) if is_tuple else one
        if value is None and isinstance(field.default, bool):
            value = False
        if value is not None:
            picked[field.name] = value
    return picked


def block_types(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Picks the types of blocks, under the names that they have today.

    **Arguments:**

    - `fields`: Of a network of diffusers, whose oldest files have a prefix there.
    """
    return {
        name: tuple(kind.removeprefix("UNetRes") for kind in fields[name])
        for name in ("down_block_types", "up_block_types")
        if name in fields
    }


def _takes_tuple(annotation: Any) -> bool:
    options = (annotation, *typing.get_args(annotation))
    return any(typing.get_origin(option) is tuple for option in options)
