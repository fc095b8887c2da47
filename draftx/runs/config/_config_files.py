"""A configuration as a TOML file, and with what the command line adds to it."""

import dataclasses
import math
import os
import pathlib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, Literal, Union

import tomli_w
import tyro

from ..._checks import nearest
from ._config import RunConfig
from ._presets import default_config


def read_config(
    path: str | os.PathLike | None, arguments: Sequence[str] = ()
) -> RunConfig:
    """Reads a configuration: a preset, what a file changes, what arguments change.

    **Arguments:**

    - `path`: Of a TOML file, or `None`.
    - `arguments`: Of a command line, `--sampling.guidance-scale 5`.

    Raises a `ValueError` that names the field of the file for what is not known, not
    finite or of another type. Arguments that cannot be read end the program, as for
    any command.
    """
    table = {} if path is None else _read_toml(pathlib.Path(path))
    preset = _peek(arguments, "--preset", table.get("preset"))
    model = _peek(arguments, "--model", table.get("model", RunConfig.model))
    base = default_config(preset, model)
    config = _with_table(base, table, "", str(path))
    if not arguments:
        return config
    config = tyro.cli(
        RunConfig, default=config, args=list(arguments), prog="draftx train"
    )
    check_finite(config, "")
    return config


def write_config(config: RunConfig) -> str:
    """Writes all that a `config` says as TOML; what is `None` is left out."""
    return tomli_w.dumps(config_table(config))


def config_table(config: Any) -> dict[str, Any]:
    """Makes a table of a `config`, as TOML has it."""
    table = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = config_table(value)
        if value is not None and value != {}:
            table[field.name] = list(value) if isinstance(value, tuple) else value
    return table


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Lists what differs between two tables of configurations, a line for each field.

    **Arguments:**

    - `before`, `after`: From `config_table`.
    """
    one, other = _flat(before), _flat(after)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [f"{n}: was {one.get(n)!r}, is {other.get(n)!r}" for n in names]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _read_toml(path: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as e:
        raise ValueError(
            f"`config` must be a file that can be read; {str(path)!r}: "
            f"{e.strerror or e}."
        ) from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ValueError(f"`config` must be TOML; {str(path)!r} is not: {e}.") from e


def _peek(arguments: Sequence[str], flag: str, default: Any) -> Any:
    """The value of a flag that decides what the others are by default."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            if equals:
                return value
            return arguments[i + 1] if i + 1 < len(arguments) else default
    return default


def _with_table(base: Any, table: Mapping[str, Any], prefix: str, path: str) -> Any:
    hints = typing.get_type_hints(type(base), include_extras=True)
    known = [field.name for field in dataclasses.fields(base)]
    changes = {}
    for key, value in table.items():
        # As on the command line, both spellings are read.
        name = key.replace("-", "_")
        if name not in known:
            near = nearest(name, known)
            hint = "" if near is None else f" Did you mean {prefix + near!r}?"
            raise ValueError(
                f"`{prefix}{key}` of {path!r} must be a field of a configuration, one "
                f"of {', '.join(known)}.{hint}"
            )
        now = getattr(base, name)
        if dataclasses.is_dataclass(now):
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"`{prefix}{key}` of {path!r} must be a table, [{prefix}{key}]; "
                    f"got {value!r}."
                )
            changes[name] = _with_table(now, value, f"{prefix}{name}.", path)
            continue
        fits, converted = _convert(hints[name], value)
        if not fits:
            raise ValueError(
                f"`{prefix}{key}` of {path!r} must be {_describe(hints[name])}; got "
                f"{value!r}."
            )
        changes[name] = converted
    return dataclasses.replace(base, **changes)


def _convert(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether a value of TOML is of this type, and the value as Python has it."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _convert(get_args(kind)[0], value)
    if origin is Literal:
        return value in get_args(kind) and isinstance(value, str), value
    if origin in (Union, types.UnionType):
        tried = [_convert(part, value) for part in get_args(kind)]
        fitting = [found for found in tried if found[0]]
        return fitting[0] if fitting else (False, value)
    if origin is tuple:
        # One of a list needs no brackets.
        items = value if isinstance(value, list) else [value]
        tried = [_convert(get_args(kind)[0], item) for item in items]
        fits = all(fit for fit, _ in tried)
        return fits, tuple(item for _, item in tried) if fits else value
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and math.isfinite(value)
        return fits, float(value) if fits else value
    return type(value) is kind, value


def _describe(kind: Any) -> str:
    names = {
        float: "a finite number",
        int: "a whole number",
        str: "text",
        bool: "true or false",
    }
    origin = get_origin(kind)
    if origin is Annotated:
        return _describe(get_args(kind)[0])
    if origin is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if origin in (Union, types.UnionType):
        parts = [part for part in get_args(kind) if part is not type(None)]
        return " or ".join(dict.fromkeys(map(_describe, parts)))
    if origin is tuple:
        items = {str: "texts", float: "finite numbers"}
        return f"a list of {items[get_args(kind)[0]]}"
    return names[kind]


def check_finite(config: Any, prefix: str) -> None:
    """Raises unless every number of a configuration is finite.

    **Arguments:**

    - `config`: A dataclass, sections included.
    - `prefix`: Of the names in the error text.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_finite(value, f"{prefix}{field.name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                name = f"{prefix}{field.name}"
                raise ValueError(f"`{name}` must be finite; got {number}.")
