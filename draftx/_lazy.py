"""Rooms of a package that are imported when something of theirs is first asked for."""

import importlib
from collections.abc import Callable
from typing import Any


def lazily(package: str, *rooms: str) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package, whose names are also those of some rooms.

    A tenth of a second is saved by everyone who asks for none of them. What type
    checkers are to know stands beside it, under `typing.TYPE_CHECKING`.

    **Arguments:**

    - `package`: Its `__name__`.
    - `rooms`: Names of modules in it, in the order in which they are looked through.
        They are names of the package too.
    """

    def getattribute(name: str) -> Any:
        if name in rooms:
            return importlib.import_module(f"{package}.{name}")
        # What Python itself asks a module for is in no room.
        for room in () if name.startswith("_") else rooms:
            module = importlib.import_module(f"{package}.{room}")
            if name in vars(module):
                return vars(module)[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattribute


def names(package: str, known: dict[str, Any], *rooms: str) -> list[str]:
    """Lists the names of a package for `dir`, those of its rooms too.

    **Arguments:**

    - `package`, `rooms`: As for `lazily`.
    - `known`: Its `globals()`.
    """
    found = {*known, *rooms}
    for room in rooms:
        module = importlib.import_module(f"{package}.{room}")
        found |= {name for name in vars(module) if not name.startswith("_")}
    return sorted(found)
