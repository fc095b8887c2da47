"""Small pieces of HTML that a report is made of; all text in them is escaped."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from ._charts import NUMBER_OF_COLORS
from ._runs import ReportedRun


def color(index: int) -> int:
    """Chooses the color of a run, by its `index` in the report."""
    return index % NUMBER_OF_COLORS


def is_dashed(index: int) -> bool:
    """Tells whether a run shares its color with one before it, by its `index`."""
    return index >= NUMBER_OF_COLORS


def chip(index: int, run: ReportedRun) -> str:
    """Writes the name of a `run` with its color, which its `index` gives."""
    dashed = " dashed" * is_dashed(index)
    name = html.escape(run.name)
    return f'<span class="key line c-{color(index)}{dashed}"><i></i>{name}</span>'


def table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]], *, kind: str = ""
) -> str:
    """Writes a table that is moved sideways where it is too wide.

    **Arguments:**

    - `head`: HTML above each column, that of the names too; or nothing.
    - `rows`: A name and a text for each other column.
    - `kind`: The class of the table.
    """
    top = "".join(f'<th scope="col">{text}</th>' for text in head)
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{html.escape(str(text))}</td>" for text in texts)
        + "</tr>"
        for name, texts in rows
    )
    return (
        f'<div class="scroll"><table class="{kind}">{top}'
        f"<tbody>{body}</tbody></table></div>"
    )


def number(value: float, style: str = ".4g") -> str:
    """Writes a number for people, a dash for what is not finite.

    **Arguments:**

    - `value`, `style`: The number, and how Python would format it.
    """
    if not np.isfinite(value):
        return "—"
    return format(value, style).replace("-", "\N{MINUS SIGN}", 1)


def words(name: str) -> str:
    """Writes the `name` of a figure as words."""
    return name.replace("_", " ").replace("/", ": ")


def none(text: str) -> str:
    """Writes that there is nothing to show, and why: `text`."""
    return f'<p class="none">{html.escape(text)}</p>'
