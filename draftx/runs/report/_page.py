"""One page about a run, or several side by side: a file that needs nothing else."""

import base64
import hashlib
import html
import importlib.resources
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..._version import __version__
from ...io import ModelFileError
from ...io.formats import write_text
from ._curves import curves
from ._html import chip
from ._pictures import before_and_after, gallery
from ._runs import column, read_reported_runs, ReportedRun
from ._scales import scales
from ._tables import (
    configuration_differences,
    configurations,
    evaluations,
    facts,
    summary,
)


def write_report(
    runs: Sequence[str | os.PathLike], output: str | os.PathLike
) -> pathlib.Path:
    """Writes a page about runs, finished or not; gives its path.

    **Arguments:**

    - `runs`: Their folders, as `draftx train --output-dir` makes them.
    - `output`: The page, an .html file; one that is there is replaced.

    Raises a `ValueError` or a [`draftx.io.ModelFileError`][] that names what is no
    folder of a run, or cannot be written.
    """
    path = pathlib.Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`output` must end in .html; got {str(path)!r}.")
    page = report(runs)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as e:
        raise ModelFileError(
            f"`output` must be a file that can be written; {str(path)!r}: "
            f"{e.strerror or e}."
        ) from e
    return path


def report(runs: Sequence[str | os.PathLike]) -> str:
    """Makes the text of the page about runs.

    **Arguments:**

    - `runs`: Their folders.
    """
    if not runs:
        raise ValueError("`runs` must be at least one folder of a run; got none.")
    found = read_reported_runs(runs)
    differing = ""
    if len(found) > 1:
        table = configuration_differences(found)
        differing = f'<section><h2 id="differences">What differs</h2>{table}</section>'
    return _filled(
        {
            "title": html.escape(", ".join(run.name for run in found)),
            "runs": "".join(
                _head(run, chip(i, run) if len(found) > 1 else "")
                for i, run in enumerate(found)
            ),
            "faults": _faults(found),
            "differences": differing,
            "summary": summary(found),
            "before_and_after": before_and_after(found),
            "gallery": gallery(found),
            "curves": curves(found),
            "evaluations": evaluations(found),
            "scales": scales(found),
            "facts": facts(found),
            "configurations": configurations(found),
            "version": html.escape(__version__),
        }
    )


def _filled(parts: Mapping[str, str]) -> str:
    files = importlib.resources.files(__package__ or "")
    page = files.joinpath("report.html").read_text("utf-8")
    style = files.joinpath("report.css").read_text("utf-8")
    script = files.joinpath("report.js").read_text("utf-8")
    # Whatever else a page might be made to hold is no script that runs.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    hashed = f"sha256-{digest}"
    parts = {**parts, "style": style, "script": script, "script_hash": hashed}
    # All at once: nothing that is filled in is filled in again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page)


def _head(run: ReportedRun, title: str) -> str:
    config = run.saved.config
    state, text = "open", f"{run.steps} of {config.max_train_steps} steps"
    if run.is_complete:
        state, text = "done", "complete"
    told = (
        f"{config.method.name} on {', '.join(config.reward)} · {config.model} · "
        f"{run.steps} steps of {config.train_batch_size} images · rank {config.rank}"
    )
    return (
        f'<div class="head">{title} <span class="badge {state}">{text}'
        f"</span><p>{html.escape(told)}</p></div>"
    )


def _faults(runs: Sequence[ReportedRun]) -> str:
    """What a reader has to know before they believe the page."""
    lines = [f"{run.name}: {fault}" for run in runs for fault in run.faults]
    for run in runs:
        missing = int(np.isnan(column(run.saved.history, "reward")).sum())
        if missing:
            lines.append(
                f"{run.name}: the reward was not a finite number in {missing} of "
                f"{run.steps} steps, which the curves leave out."
            )
    if len({tuple(run.saved.config.reward) for run in runs}) > 1:
        lines.append(
            "These runs were trained on different rewards: compare held-out figures "
            "of the same name, not the rewards of their steps."
        )
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul class="faults">{items}</ul>' if items else ""
