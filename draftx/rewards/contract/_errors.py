"""What is wrong with a reward, in words of its own."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..._checks import did_you_mean, wants_numbers
from ..._table import TEXT_COLUMNS


class RewardError(ValueError):
    """Says that a reward gave something other than one finite score for each image.

    Or that it has no gradient although a method needs it. Raised by `finetune`, its
    `result` is what had been reached before.
    """

    result: Any = None


@contextlib.contextmanager
def traced_by_jax() -> Iterator[None]:
    """Names the remedy where a function wants numbers that JAX does not have yet.

    Used around a user's function, which a compiled program gives tracers for images:
    NumPy, PIL, PyTorch, `float` and `if` make nothing of these.
    """
    try:
        yield
    except Exception as e:
        if not wants_numbers(e):
            raise
        raise RewardError(
            "`reward` must be a function that JAX can trace, written with `jax.numpy`; "
            "this one needs the images' numbers, as NumPy, PyTorch, `float` and `if` "
            "do. For a function of NumPy images give `draftx.rewards.HostReward(fn)`, "
            f"which has no gradient. It failed with: {str(e).splitlines()[0]}"
        ) from e


@contextlib.contextmanager
def reading_columns(rows: Mapping[str, Any] | None) -> Iterator[None]:
    """Names what a user's function looks up and what its rows have no column for.

    **Arguments:**

    - `rows`: As the function is given them; `None` if it is given none.
    """
    try:
        yield
    except KeyError as e:
        name = e.args[0] if e.args else None
        # Of another mapping. Whether others are too cannot be told.
        if rows is None or not isinstance(name, str) or name in rows:
            raise
        hint = did_you_mean(name, rows)
        if name in TEXT_COLUMNS:
            hint = " Words are given to `draftx.rewards.HostReward(fn)` alone."
        raise RewardError(
            f"`reward` found no {name!r}: to be a column of its rows it must be one of "
            f"`prompts`, which have {sorted(rows)}.{hint}"
        ) from e
