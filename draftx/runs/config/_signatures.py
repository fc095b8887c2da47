"""Options as configuration files know them, made of the signatures that take them."""

import dataclasses
import functools as ft
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin, Literal, Union

import tyro


# What can be written in a file or on a command line.
_PLAIN = (bool, int, float, str)


def section(
    name: str,
    functions: Mapping[str, Callable],
    *,
    optional: bool = False,
    more: Mapping[str, tuple[Any, Any, str]] | None = None,
    aliases: Mapping[str, str] | None = None,
    leave_out: Sequence[str] = (),
) -> type:
    """Makes a dataclass with a field for each plain parameter of some functions.

    Its fields have the parameters' types and defaults, and as their help what the
    documentation of the functions says of them. Parameters that are objects, arrays or
    functions are left out.

    **Arguments:**

    - `name`: Of the dataclass.
    - `functions`: Functions or classes, by the names that their users know.
    - `optional`: Whether every field is `None` by default, which stands for the default
        of the function that is called.
    - `more`: Other fields, which come first: type, default and help by name.
    - `leave_out`: Parameters that get no field.
    - `aliases`: Flags that some of the fields go by besides.
    """
    fields = dict(more or {})
    helps: dict[str, list[str]] = {}
    for label, function in functions.items():
        described = describe(function)
        for parameter, kind, default in plain_parameters(function):
            if parameter in leave_out:
                continue
            if optional:
                kind, default = kind | None, None
            text = described.get(parameter, "")
            if len(functions) > 1:
                text = f"{label}: {text}"
            helps.setdefault(parameter, []).append(text)
            known = fields.get(parameter, (kind, default, ""))
            kind = known[0] if known[0] == kind else known[0] | kind
            fields[parameter] = (kind, known[1], " ".join(helps[parameter]))
    made = [
        (
            parameter,
            Annotated[kind, _flag(text, (aliases or {}).get(parameter))],
            dataclasses.field(default=default),
        )
        for parameter, (kind, default, text) in fields.items()
    ]
    return dataclasses.make_dataclass(name, made, frozen=True, kw_only=True)


def _flag(text: str, alias: str | None) -> Any:
    return tyro.conf.arg(help=text, aliases=None if alias is None else (alias,))


def plain_parameters(function: Callable) -> list[tuple[str, Any, Any]]:
    """Lists the parameters of a function that a file can hold.

    **Arguments:**

    - `function`: A function or a class; each of its parameters counts that has a
        default of a plain type.

    **Returns:**

    Name, type and default of each.
    """
    if inspect.isclass(function):
        # A converter takes anything: the field then says what it is.
        given = typing.get_type_hints(function.__init__)
        given = {name: kind for name, kind in given.items() if kind is not Any}
        hints = typing.get_type_hints(function) | given
    else:
        hints = typing.get_type_hints(function)
    found = []
    for parameter in inspect.signature(function).parameters.values():
        kind = _plain(hints.get(parameter.name))
        if kind is not None and parameter.default is not parameter.empty:
            found.append((parameter.name, kind, parameter.default))
    return found


def describe(function: Callable) -> dict[str, str]:
    """Finds what the documentation of a function says of each argument.

    **Arguments:**

    - `function`: A function or a class, whose `**Arguments:**` are a list.
    """
    documents = [inspect.getdoc(function) or ""]
    if inspect.isclass(function):
        documents.append(inspect.getdoc(function.__init__) or "")
    found: dict[str, str] = {}
    for document in documents:
        _, _, arguments = document.partition("**Arguments:**")
        items = re.split(r"\n- (?=`)", arguments.split("\n\n**", 1)[0])
        for item in items[1:]:
            names, _, text = item.partition(":")
            # A paragraph that is no part of the list ends it.
            text = re.split(r"\n\n(?! )", text)[0]
            for name in re.findall(r"`(\w+)`", names):
                found.setdefault(name, _readable(text))
    return found


def _readable(text: str) -> str:
    """Documentation as a terminal shows it: one paragraph, without LaTeX."""
    text = re.sub(r"\\(?:mathcal|text|bar|hat)\s*", "", text)
    text = re.sub(r"\[`([^`]*)`\]\[\]", r"\1", text)
    return " ".join(re.sub(r"[$\\`]", "", text).split())


def _plain(kind: Any) -> Any:
    """The type as a file knows it, or `None` if it knows none such."""
    if get_origin(kind) is Literal or kind in _PLAIN:
        return kind
    if get_origin(kind) in (Union, types.UnionType):
        # Of a number or a schedule the number can be written.
        plain = [part for part in map(_plain, get_args(kind)) if part is not None]
        if float in plain and int in plain:
            plain.remove(int)
        if not plain:
            return None
        if type(None) in get_args(kind):
            plain.append(None)
        return ft.reduce(operator.or_, plain)
    return None
