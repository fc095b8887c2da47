"""A batch as rows of a table: prompts, and whatever else belongs to an image."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ._checks import as_rows, did_you_mean, nearest


# What a user may write for the rows: a list of prompts, or columns of equal length.
# Looser than that, because `Table.of` says more than a type checker would.
Rows: TypeAlias = Any

# The columns of strings: all others are arrays.
TEXT_COLUMNS = ("prompt", "negative_prompt")


class Table:
    """Columns of equal length, on the host: one row for each image or prompt.

    `prompt` and `negative_prompt` are lists of strings; every other column is a NumPy
    array whose first axis counts the rows, such as a reference image for each.
    """

    def __init__(self, columns: Mapping[str, Any]):
        if not isinstance(columns, Mapping) or "prompt" not in columns:
            got, slip = columns, ""
            if isinstance(columns, Mapping):
                got = sorted(map(str, columns))
                slip = _slip("prompt", got)
            raise ValueError(
                "`prompts` must have a column 'prompt' if it is a mapping; got "
                f"{got!r}.{slip}"
            )
        checked: dict[str, Any] = {}
        for name, column in columns.items():
            if not isinstance(name, str):
                raise ValueError(f"`prompts` must name its columns; got {name!r}.")
            label = "prompts" if name == "prompt" else f"prompts[{name!r}]"
            checked[name] = (
                _texts(column, label) if name in TEXT_COLUMNS else _array(column, label)
            )
        lengths = {name: len(column) for name, column in checked.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"`prompts` must have columns of one length; got {lengths}."
            )
        self._columns = checked

    __init__.__doc__ = """**Arguments:**

    - `columns`: A column `"prompt"` of strings, and others of the same length.

    Raises a `ValueError` that names the column for anything else.
    """

    @classmethod
    def of(cls, rows: Rows) -> "Table":
        """Makes a table of a list of prompts, or of a mapping of columns.

        **Arguments:**

        - `rows`: A list of strings, a mapping as for `Table`, or a table, which stays
            as it is.
        """
        if isinstance(rows, Table):
            return rows
        if isinstance(rows, Mapping):
            return cls(rows)
        check_prompts(rows)
        return cls({"prompt": rows})

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._columns["prompt"])

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return name in self._columns

    def __getitem__(self, name: str) -> Any:
        """One column by its name."""
        if name not in self._columns:
            raise KeyError(
                f"the table has no column {name!r}, only {sorted(self._columns)}; give "
                f"it with the prompts: {{'prompt': [...], {name!r}: ...}}."
                f"{did_you_mean(name, self._columns)}"
            )
        return self._columns[name]

    def slip(self, name: str) -> str:
        """Says, as the end of an error text, which column may be meant as `name`.

        For one that must be there; the text is empty if no column is spelled like it.
        """
        return _slip(name, self._columns)

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self._columns)

    @property
    def prompts(self) -> list[str]:
        """The column of prompts."""
        return self._columns["prompt"]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The columns that a compiled program can be given: all but the texts."""
        return {k: v for k, v in self._columns.items() if k not in TEXT_COLUMNS}

    @property
    def texts(self) -> dict[str, list[str]]:
        """The columns of strings: the prompts, and the negative ones if there are."""
        return {k: v for k, v in self._columns.items() if k in TEXT_COLUMNS}

    def take(self, indices: Sequence[int] | np.ndarray) -> "Table":
        """Takes the rows at these `indices`, in this order."""
        indices = [int(i) for i in indices]
        return Table(
            {
                name: [column[i] for i in indices]
                if isinstance(column, list)
                else column[indices]
                for name, column in self._columns.items()
            }
        )

    def first_equal(self) -> np.ndarray:
        """Finds, for each row, the index of the first that is equal in all columns."""
        seen: dict[Any, int] = {}
        keys = zip(*map(_hashable, self._columns.values()), strict=True)
        return np.asarray([seen.setdefault(key, i) for i, key in enumerate(keys)])

    def with_prompts(self, prompts: Sequence[str]) -> "Table":
        """Makes a table of the same rows with other `prompts`."""
        return Table(self._columns | {"prompt": list(prompts)})


def check_prompts(prompts: Any, name: str = "prompts") -> None:
    """Raises unless `prompts` is a non-empty list or tuple of strings."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ValueError(
            f"`{name}` must be a list of strings; got {prompts!r}. Put a single prompt "
            "into a list."
        )
    if len(prompts) == 0:
        raise ValueError(f"`{name}` must hold at least one prompt; got an empty list.")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(
                f"`{name}` must hold only strings; got {prompt!r} of type "
                f"{type(prompt).__name__}."
            )


def _slip(name: str, columns: Iterable[str]) -> str:
    near = nearest(name, columns)
    return "" if near is None else f" Did you mean {name!r} where it says {near!r}?"


def _hashable(column: list[str] | np.ndarray) -> list[Any]:
    return column if isinstance(column, list) else [row.tobytes() for row in column]


def _texts(column: Any, label: str) -> list[str]:
    if isinstance(column, np.ndarray):
        column = column.tolist()
    check_prompts(column, label)
    return list(column)


def _array(column: Any, label: str) -> np.ndarray:
    array = as_rows(label, column)
    # Extended types, such as bfloat16, are of kind "V".
    if array.ndim == 0 or array.dtype.kind not in "fiubV":
        texts = (
            " Texts other than 'prompt' and 'negative_prompt' cannot be passed to a "
            "compiled program; of pictures give what is in the files, not their names."
        )
        raise ValueError(
            f"`{label}` must be an array of numbers with one row for each prompt; got "
            f"shape {array.shape} of {array.dtype}.{texts * (array.dtype.kind in 'US')}"
        )
    return array
