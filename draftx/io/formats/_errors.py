"""Errors of files, and what of foreign texts is in them."""

import pathlib
from collections.abc import Iterable


# Letters of one name in an error text: those of real models have a hundred at most.
_MOST = 200


class ModelFileError(ValueError):
    """Says that a file or folder does not hold what it should; nothing was loaded."""


def shown(text: str) -> str:
    """Writes a text that a file holds so that it can stand in an error text.

    It has no line breaks and nothing else that moves the cursor of a terminal, and an
    end.

    **Arguments:**

    - `text`: By whomever.
    """
    more = f"... and {len(text) - _MOST} more letters" if len(text) > _MOST else ""
    letters = (c if c.isprintable() else ascii(c)[1:-1] for c in text[:_MOST])
    return "".join(letters) + more


def files_there(folder: pathlib.Path) -> str:
    """Says, as the end of an error text, which files of weights a `folder` has."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    return f" Files that are there are passed by name: {names[:5]}." if names else ""


def first_five(items: Iterable[str]) -> str:
    """Lists `items` for an error text: five, then how many more there are."""
    items = list(items)
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(map(shown, items[:5])) + more
