"""Reading the `config.json` files that checkpoints are published with."""

import dataclasses
import numbers
import reprlib
import types
import typing
from collections.abc import Mapping
from typing import Any


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


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


def known_fields(cls: type, config: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Picks the entries that `cls` has fields for, in the form of those fields.

    Lists become tuples, or the one value that they repeat where a field takes one;
    `null` means "absent", and "off" for switches; 64.0 is 64 where whole numbers count.
    Anything else that is not of the field's type is a `ConfigError`.

    **Arguments:**

    - `config`: A parsed `config.json`.
    - `model`: Used in the error text.
    """
    picked = {}
    for field in dataclasses.fields(cls):
        if field.name not in config:
            continue
        value = config[field.name]
        # Arrays and scalars of NumPy, of configs made in Python.
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, list) and value:
            one = one_value(value)
            is_tuple = one is not None and _takes_tuple(field.type)
            value = tuple(value) if is_tuple else one
        if value is None and isinstance(field.default, bool):
            value = False
        if value is not None:
            try:
                picked[field.name] = _of_type(field.type, value)
            except ValueError as e:
                raise ConfigError(
                    f"`{field.name}` of {model} must be {_in_words(field.type)}; got "
                    f"{reprlib.repr(config[field.name])}."
                ) from e
    return picked


def is_number(value: Any) -> typing.TypeGuard[int | float]:
    """Tells whether a value of a parsed file is a number; true and false are none.

    **Arguments:**

    - `value`: Of a field.
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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


def _of_type(annotation: Any, value: Any) -> Any:
    """The value as a field of that type has it."""
    options = _options(annotation)
    if isinstance(value, tuple | list):
        for option in options:
            if typing.get_origin(option) is tuple:
                entry = typing.get_args(option)[0]
                return tuple(_of_type(entry, one) for one in value)
    elif is_number(value):
        if float in options or (int in options and isinstance(value, int)):
            return value
        if int in options and float(value).is_integer():
            return int(value)
        if bool in options and value in (0, 1):
            return bool(value)
    elif type(value) in options:
        return value
    raise ValueError(value)


def _in_words(annotation: Any) -> str:
    words, options = [], _options(annotation)
    for option in options:
        if typing.get_origin(option) is tuple:
            words.append(f"a list, {_in_words(typing.get_args(option)[0])} each")
        # What takes any number takes whole ones, which nobody has to be told.
        elif option in _WORDS and not (option is int and float in options):
            words.append(_WORDS[option])
    return " or ".join(dict.fromkeys(words))


def _options(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return typing.get_args(annotation)
    return (annotation,)


def _takes_tuple(annotation: Any) -> bool:
    return any(typing.get_origin(option) is tuple for option in _options(annotation))
