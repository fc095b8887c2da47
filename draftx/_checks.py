import math
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


def check_is(name: str, value: Any, kind: type, example: str) -> None:
    """Raises unless the argument `name` is one of its kind; a class of it is not.

    **Arguments:**

    - `name`, `value`: Of the argument.
    - `kind`: The class, an interface for what users may write themselves.
    - `example`: Code that makes one.
    """
    if isinstance(value, kind):
        return
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise ValueError(
        f"`{name}` must be {article} {kind.__name__}, such as `{example}`; got "
        f"{value!r}."
    )


def finite(name: str, value: Any) -> float:
    """Makes a plain float of the argument `name`; raises unless it is a finite number.

    **Arguments:**

    - `name`, `value`: Of the argument; NumPy's and JAX's scalars are numbers too.
    """
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{name}` must be finite; got {value!r}.")
    return number
