"""The scales of adapters in a report: figures and pictures at each of them."""

import html
from collections.abc import Sequence

from ..folder import is_png
from ._html import chip, number, table, words
from ._pictures import whole_picture
from ._runs import column, figure_names, ReportedRun


def scales(runs: Sequence[ReportedRun]) -> str:
    """Shows what adapters give at several scales, as a section of the page.

    **Arguments:**

    - `runs`: Of the report; nothing is written if none has measured any.
    """
    parts = [
        (f"<h3>{chip(i, run)}</h3>" if len(runs) > 1 else "") + _of_run(run)
        for i, run in enumerate(runs)
        if run.saved.scales is not None
    ]
    if not parts:
        return ""
    title = '<h2 id="scales">The adapter at other scales</h2>'
    return f"<section>{title}{''.join(parts)}</section>"


def _of_run(run: ReportedRun) -> str:
    found = run.saved.scales
    assert found is not None
    names = [name for name in figure_names(found.figures) if name != "lora_scale"]
    columns = [column(found.figures, name) for name in names]
    rows = []
    for i, scale in enumerate(column(found.figures, "lora_scale")):
        best = " (best)" if scale == found.best else ""
        rows.append((f"{scale:g}{best}", [number(values[i]) for values in columns]))
    written = table(
        ["scale", *(html.escape(words(name)) for name in names)], rows, kind="numbers"
    )
    path = run.saved.folder.scales_picture
    content = path.read_bytes() if path.is_file() else b""
    if not is_png(content):
        return written
    return written + whole_picture(content, "the same prompts at each scale")
