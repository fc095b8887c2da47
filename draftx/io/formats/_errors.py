from collections.abc import Iterable


class ModelFileError(ValueError):
    """Says that a file or folder does not hold what it should; nothing was loaded."""


def first_five(items: Iterable[str]) -> str:
    """Lists `items` for an error text: five, then how many more there are."""
    items = list(items)
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return ", ".join(items[:5]) + more
