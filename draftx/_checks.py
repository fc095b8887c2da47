import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any, get_args, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


# Of what an error repeats.
_LONG = 200
_WANT_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
Interval: TypeAlias = Literal["[0, 1]", "(0, 1]", "[0, 1)", "(0, 1)"]


def plain(value: Any) -> Any:
    """Makes a Python number of a scalar of NumPy or JAX; all else stays as it is."""
    is_array = isinstance(value, np.generic | np.ndarray | jax.Array)
    if not is_array or is_traced(value) or value.ndim:
        return value
    # Keys have a dtype of their own.
    return value.item() if jnp.issubdtype(value.dtype, np.number) else value


def is_traced(value: Any) -> bool:
    """Whether a value is not known yet: inside of `jax.jit` or `jax.grad`."""
    return isinstance(value, Tracer)


def is_whole(value: Any, *, least: int = 1) -> bool:
    """Whether a value is a whole number of at least this; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_whole(
    name: str, value: Any, *, least: int = 1, divides: int | None = None
) -> int:
    """Makes a plain int of the argument `name`; raises unless it is in its range.

    **Arguments:**

    - `name`, `value`: Of the argument; NumPy's and JAX's scalars are numbers too.
    - `least`: The smallest that is allowed.
    - `divides`: What the number must divide.
    """
    number = plain(value)
    if is_whole(number, least=least) and (divides is None or divides % number == 0):
        return number
    of = "" if divides is None else f" that divides {divides}"
    raise ValueError(
        f"`{name}` must be a whole number of at least {least}{of}; got {value!r}."
        f"{_if_traced(value)}"
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
    shown = repr(value)
    if len(shown) > _LONG:
        shown = f"an object of {type(value).__name__}"
    # A result, say, where what it holds is wanted.
    parts = getattr(value, "_fields", None) or getattr(value, "__dict__", ())
    held = [part for part in parts if isinstance(getattr(value, part, None), kind)]
    remedy = f" Give its `.{held[0]}`." if held else ""
    raise ValueError(
        f"`{name}` must be {article} {kind.__name__}, such as `{example}`; got "
        f"{shown}.{remedy}"
    )


def finite(
    name: str,
    value: Any,
    rule: str = "be finite",
    holds: Callable[[float], bool] = lambda number: True,
) -> float:
    """Makes a plain float of the argument `name`; raises unless it is a finite number.

    **Arguments:**

    - `name`, `value`: Of the argument; NumPy's and JAX's scalars are numbers too, and
        booleans are none.
    - `rule`: What the number must do, in words.
    - `holds`: Whether it does.
    """
    number = plain(value)
    is_number = isinstance(number, float | int) and not isinstance(number, bool)
    if is_number and math.isfinite(number) and holds(number):
        return float(number)
    kind = "" if is_number else " Give a plain number, or a scalar of NumPy or JAX."
    raise ValueError(f"`{name}` must {rule}; got {value!r}.{kind}{_if_traced(value)}")


def positive(name: str, value: Any) -> float:
    """Makes a plain float of the argument `name`, which must be above 0."""
    return finite(name, value, "be finite and positive", lambda x: x > 0)


def not_negative(name: str, value: Any) -> float:
    """Makes a plain float of the argument `name`, which must be at least 0."""
    return finite(
        name, value, "be finite and not negative: at least 0", lambda x: x >= 0
    )


def within(name: str, value: Any, interval: Interval = "[0, 1]") -> float:
    """Makes a plain float of the argument `name`, which must lie in an interval.

    **Arguments:**

    - `name`, `value`: Of the argument.
    - `interval`: With or without its ends.
    """
    assert interval in get_args(Interval)
    ends = [end for end, mark in ((0, "["), (1, "]")) if mark in interval]
    number = finite(name, value)
    return finite(name, number, f"lie in {interval}", lambda x: 0 < x < 1 or x in ends)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Finds what of `known` is spelled most like `name`; `None` if nothing is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Says, as the end of an error text, what of `known` may be meant by `name`.

    It is empty if nothing is near.
    """
    near = nearest(name, known)
    return "" if near is None else f" Did you mean {near!r}?"


def wants_numbers(error: Exception) -> bool:
    """Tells whether a function failed because JAX traces it, and has no numbers yet.

    NumPy, PIL, PyTorch, `float` and `if` make nothing of tracers.

    **Arguments:**

    - `error`: Raised by a user's function.
    """
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return False  # One of another program was kept: that is another mistake.
    # Errors of other libraries name the class that they were given.
    return isinstance(error, _WANT_NUMBERS) or "Tracer" in str(error)


def as_rows(name: str, rows: Any) -> np.ndarray:
    """Makes an array of rows, or a `ValueError` that says that their shapes differ.

    **Arguments:**

    - `name`: Of the argument.
    - `rows`: An array, or a list with an array or a number for each row.
    """
    try:
        return np.asarray(rows)
    except Exception as e:
        problem = f"be an array; {type(e).__name__}: {str(e).rstrip('.')}."
        try:
            shapes = list(dict.fromkeys(map(np.shape, rows)))
        except Exception:
            shapes = []
        if len(shapes) > 1:
            problem = (
                f"have rows of one shape; got {shapes[0]} and {shapes[1]}. Resize "
                "pictures, fill up what is shorter, and leave out no row."
            )
        raise ValueError(f"`{name}` must {problem}") from e


def check_pictures(name: str, values: Any) -> np.ndarray:
    """Makes float32 of images in [0, 1], or a `ValueError` that says what is wrong.

    **Arguments:**

    - `name`: Of the argument.
    - `values`: Images, in any shape.
    """
    array = np.asarray(values)
    # To NumPy, bfloat16 is no floating-point type.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` must be floating point, in [0, 1]; got {array.dtype}. Divide "
            "bytes by 255."
        )
    array = array.astype(np.float32)
    least, largest = float(array.min()), float(array.max())
    if not (least >= 0 and largest <= 1):
        remedy = "Clip what overshoots."
        if least < -0.5:
            remedy = "Map [-1, 1] by `x / 2 + 0.5`, and clip what overshoots."
        if largest > 2:
            remedy = "Divide bytes by 255."
        if not math.isfinite(least + largest):
            remedy = "They must be finite."
        raise ValueError(
            f"`{name}` must lie in [0, 1]; got numbers from {least:.9g} to "
            f"{largest:.9g}. {remedy}"
        )
    return array


def _if_traced(value: Any) -> str:
    if not is_traced(value):
        return ""
    return (
        " Give a number that is known before anything is compiled: one from outside of "
        "`jax.jit` and `jax.grad`."
    )
