"""Prompts as people keep them: files of lines, of JSON or of columns, and templates."""

import csv
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._checks import finite
from ..._custom_types import Real
from ..._table import Table, TEXT_COLUMNS
from ._hpdv2 import find_hpdv2
from ._prompt_pictures import PICTURE_ENDINGS, read_pictures
from ._words import WORD_LISTS


_ENDINGS = (".txt", ".jsonl", ".csv")


def read_prompts(source: str | os.PathLike) -> Table:
    """Reads rows of prompts from a file, or makes them of a template.

    **Arguments:**

    - `source`: A path, or a template.
        - `.txt`: one prompt a line; empty lines are left out.
        - `.jsonl`: one object a line, with `"prompt"`, perhaps `"negative_prompt"`, and
            other columns of numbers, of nested lists of numbers, or of files of
            pictures, by their paths from the folder of the `.jsonl`: a model that sees
            an image is given the column `"conditioning_image"`.
        - `.csv`: the same, the names of the columns in its first line, without lists.
        - a template, such as `"a photo of a {animals}"`: one prompt for each of the
            words; several braces give all combinations. A name in braces is
            `animals`, the 45 of the DDPO paper, or a `.txt` file of words.
        - `hpdv2`, the 3,200 of the benchmark of Human Preference Dataset v2;
            `hpdv2:photo` and so on, one of its four styles; `hpdv2:train` and
            `hpdv2:test`, what people compared images of. They are looked for in the
            cache of the Hugging Face Hub; a folder that holds the data set may stand
            in place of `hpdv2`.

    **Returns:**

    A table with the column `"prompt"`. Prompts that are there twice stay so: they are
    drawn as often.

    Raises a `ValueError` that names the file and the line.
    """
    if isinstance(source, str) and "{" in source:
        return Table({"prompt": _fill(source)})
    path = pathlib.Path(source)
    if path.suffix.lower() not in _ENDINGS:
        found = find_hpdv2(str(source))
        if found is not None:
            return Table({"prompt": found})
        raise ValueError(
            f"`prompts` must be a file that ends in one of {list(_ENDINGS)}, or a "
            f"template with a word list in braces, '{{animals}}', or 'hpdv2'; got "
            f"{str(source)!r}."
        )
    if path.suffix.lower() == ".txt":
        rows = [{"prompt": line} for _, line in _read_lines(path)]
    elif path.suffix.lower() == ".jsonl":
        rows = [_json_row(path, number, line) for number, line in _read_lines(path)]
    else:
        rows = _csv_rows(path)
    return _table(path, rows)


def split_prompts(table: Table, held_out: Real) -> tuple[Table, Table]:
    """Keeps a part of the rows for evaluation: what is trained on, and what is not.

    A row's side depends on its texts alone: equal prompts stay together, and a prompt
    that is added later moves no other.

    **Arguments:**

    - `table`: At least two different rows.
    - `held_out`: The share to keep, between 0 and 1; at least one row is on each side.
    """
    if not 0 < finite("held_out", held_out) < 1:
        raise ValueError(f"`held_out` must lie between 0 and 1; got {held_out}.")
    texts = zip(*table.texts.values(), strict=True)
    places = np.asarray([_place(row) for row in texts])
    chosen = places < held_out
    if not chosen.any():
        chosen = places == places.min()
    if chosen.all():
        chosen = places != places.max()
    if not chosen.any():
        raise ValueError(
            "`prompts` must hold at least two different prompts to keep one for "
            f"evaluation; got {table.prompts[0]!r} alone. `--held-out-prompts` names "
            "others."
        )
    return table.take(np.flatnonzero(~chosen)), table.take(np.flatnonzero(chosen))


def _place(texts: Sequence[str]) -> float:
    """Where between 0 and 1 a row stands, as good as at random."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _read_lines(path: pathlib.Path) -> list[tuple[int, str]]:
    """The lines that are not empty, each with its number."""
    lines = [
        (number, line.strip())
        for number, line in enumerate(
            # Not `splitlines`, which ends lines in the midst of JSON's strings too.
            re.split(r"\r\n|\r|\n", _read_text(path)),
            1,
        )
        if line.strip()
    ]
    if not lines:
        raise ValueError(
            f"`prompts` must hold at least one prompt; {str(path)!r} holds none."
        )
    return lines


def _read_text(path: pathlib.Path) -> str:
    try:
        data = path.read_bytes()
    # A name with a NUL in it is a `ValueError`.
    except (OSError, ValueError) as e:
        raise ValueError(
            f"`prompts` must be a file that can be read; got {str(path)!r}: "
            f"{getattr(e, 'strerror', None) or e}."
        ) from e
    try:
        # Some systems begin a file with a byte order mark: no part of a prompt.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ValueError(
            f"`prompts` must be UTF-8; line {line} of {str(path)!r} is not: {e}. Save "
            "it as UTF-8."
        ) from e


def _json_row(path: pathlib.Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise ValueError(
            f"`prompts` must have a JSON object in each line; line {number} of "
            f"{str(path)!r} has none: {e}."
        ) from e
    if not isinstance(row, dict) or "prompt" not in row:
        raise ValueError(
            "`prompts` must have a JSON object with 'prompt' in each line; line "
            f"{number} of {str(path)!r} is {line[:80]!r}."
        )
    return row


def _csv_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        names, *values = [row for row in reader if row] or [[]]
    except csv.Error as e:
        raise ValueError(
            f"`prompts` cannot be read from {str(path)!r}: line {reader.line_num}: {e}."
        ) from e
    names = [name.strip() for name in names]
    if "prompt" not in names:
        raise ValueError(
            "`prompts` must have a column 'prompt' in the first line of the file; "
            f"{str(path)!r} has {names}."
        )
    rows = []
    for i, row in enumerate(values, 1):
        if len(row) != len(names):
            raise ValueError(
                f"`prompts` must have {len(names)} fields in each row, as its first "
                f"line has; row {i} of {str(path)!r} has {len(row)}."
            )
        rows.append(
            {
                name: text if _is_text(name, text) else _number(path, i, name, text)
                for name, text in zip(names, row, strict=True)
            }
        )
    return rows


def _is_text(name: str, text: str) -> bool:
    return name in TEXT_COLUMNS or text.lower().endswith(PICTURE_ENDINGS)


def _number(path: pathlib.Path, row: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise ValueError(
            f"`prompts` must have numbers in its column {name!r}; row {row} of "
            f"{str(path)!r} has {text!r}. Leave the column out: of words only prompts "
            f"and files of pictures are read, {', '.join(PICTURE_ENDINGS)}."
        ) from e


def _table(path: pathlib.Path, rows: list[dict[str, Any]]) -> Table:
    if not rows:
        raise ValueError(
            f"`prompts` must hold at least one prompt; {str(path)!r} holds none."
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        without = [i for i, row in enumerate(rows, 1) if name not in row]
        if without:
            raise ValueError(
                f"`prompts` must have the same columns in each row; {name!r} is "
                f"missing in {len(without)} of the {len(rows)} of {str(path)!r}, first "
                f"in row {without[0]}."
            )
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
    for name in columns.keys() - TEXT_COLUMNS:
        if any(isinstance(value, str) for value in columns[name]):
            columns[name] = read_pictures(path, name, columns[name])
    try:
        return Table(columns)
    except ValueError as e:
        raise ValueError(f"{e} It was read from {str(path)!r}.") from e


def _fill(template: str) -> list[str]:
    parts = re.split(r"\{([^{}]*)\}", template)
    texts, names = parts[::2], parts[1::2]
    if not names or any("{" in text or "}" in text for text in texts):
        raise ValueError(
            "`prompts` must be a template with names of word lists in braces, such as "
            f"'a {{animals}}'; got {template!r}."
        )
    filled = []
    for words in itertools.product(*map(_words, names)):
        filled.append(
            texts[0] + "".join(a + b for a, b in zip(words, texts[1:], strict=True))
        )
    return filled


def _words(name: str) -> Sequence[str]:
    if name in WORD_LISTS:
        return WORD_LISTS[name]
    if name.endswith(".txt"):
        return [line for _, line in _read_lines(pathlib.Path(name))]
    raise ValueError(
        f"`prompts` must name a word list in braces, one of {sorted(WORD_LISTS)} or a "
        f".txt file; got {name!r}."
    )
