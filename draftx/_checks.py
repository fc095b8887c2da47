from typing import Any


def is_whole(value: Any, *, least: int = 1) -> bool:
    """Whether a value is a whole number of at least this; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(
    name: str, value: Any, *, least: int = 1, divides: int | None = None
) -> None:
    """Raises unless the argument `name` is a whole number in its range."""
    if is_whole(value, least=least) and (divides is None or divides % value == 0):
        return
    of = "" if divides is None else f" that divides {divides}"
    raise ValueError(
        f"`{name}` must be a whole number of at least {least}{of}; got {value!r}."
    )
