"""What a report says of a run, read from its folder, finished or not."""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...io import ModelFileError
from ..folder import is_png, open_run, Panel, SavedRun, split_panels


# Of what an evaluation measured, as the rows of a step carry it.
_BEFORE, _HELD_OUT = "before/", "held_out/"
# Of one of the rewards in a sum.
_COMPONENT = "reward/"
# Of a row: what is no figure to be drawn over the steps.
_NO_CURVES = ("step", "prompts", "reward", "skipped", "seconds", "images")
_NO_CURVES += ("reward_queries", "unet_forwards", "unet_backwards")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Holds what was drawn after some steps.

    - `step`: How many.
    - `whole`: The picture as it is.
    - `panels`: The images of the tuned model in it, one for each prompt; none where
        not every picture of the run says which images it is made of.
    - `base`: Those of the base model, from the same noise.
    """

    step: int
    whole: bytes
    panels: Sequence[Panel] = ()
    base: Sequence[Panel] = ()


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """Holds what a report says of a run.

    - `name`: That no other run of the report has.
    - `saved`: Its folder.
    - `evaluations`: Of the steps that were taken, in their order.
    - `samples`: By step, first to last.
    - `versions`: What it was made with.
    - `faults`: What could not be read, a line each.
    """

    name: str
    saved: SavedRun
    evaluations: Sequence[Mapping[str, Any]]
    samples: Sequence[Samples]
    versions: Mapping[str, Any]
    faults: Sequence[str]

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.saved.history)

    @property
    def is_complete(self) -> bool:
        """Whether it has taken all steps of its configuration."""
        return self.steps >= self.saved.config.max_train_steps


def read_reported_runs(folders: Sequence[str | os.PathLike]) -> list[ReportedRun]:
    """Reads runs for a report, and finds a name for each.

    **Arguments:**

    - `folders`: Of the runs, each once.
    """
    paths = [pathlib.Path(folder) for folder in folders]
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(
                f"`runs` must be different folders; {str(path)!r} is given more than "
                "once."
            )
    names = [place.name for place in places]
    return [
        _read(path, name if names.count(name) == 1 else str(path))
        for path, name in zip(paths, names, strict=True)
    ]


def _read(path: pathlib.Path, name: str) -> ReportedRun:
    try:
        saved = open_run(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ModelFileError(
            f"The figures of the run in {str(path)!r} must be JSON lines; {e}. Go on "
            "with the run, which writes them again."
        ) from e
    samples, faults = _samples(path / "samples")
    return ReportedRun(
        name,
        saved,
        merged_evaluations(saved.history, saved.evaluations),
        samples,
        _versions(saved, faults),
        faults,
    )


def merged_evaluations(
    history: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Joins what is known of evaluations while a run lasts, and at its end.

    **Arguments:**

    - `history`: Rows of steps, which have the figures of evaluations before the first
        step and after theirs. They are those of the run as it is.
    - `evaluations`: As the run wrote them when it last ended. Those of steps that have
        not been taken again since are left out.
    """
    found: dict[int, dict[str, Any]] = {}
    for row in evaluations:
        if not history or row["step"] <= len(history):
            found[row["step"]] = dict(row)
    for row in history:
        for prefix, step in ((_BEFORE, row["step"]), (_HELD_OUT, row["step"] + 1)):
            figures = {
                name.removeprefix(prefix): value
                for name, value in row.items()
                if name.startswith(prefix)
            }
            if figures:
                found[step] = found.get(step, {"step": step}) | figures
    return [found[step] for step in sorted(found)]


def figure_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists the figures of evaluations, in the order in which they were written.

    **Arguments:**

    - `rows`: Evaluations.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in ("step", "train_reward")]


def curve_names(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lists what of the rows of steps makes a curve, besides the reward.

    **Arguments:**

    - `history`: Rows of steps. Numbers count; the spread of another one does not, and
        neither does a reward that is the only one in a sum.
    """
    names = dict.fromkeys(
        name
        for row in history
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    )
    spreads = {spread_name(name) for name in names}
    components = [name for name in names if name.startswith(_COMPONENT)]
    return [
        name
        for name in names
        if name not in _NO_CURVES
        and name not in spreads
        and not name.startswith((_BEFORE, _HELD_OUT))
        and not components == [name]
    ]


def spread_name(name: str) -> str:
    """Names the spread of the figure that is called `name`."""
    if name.startswith(_COMPONENT):
        return f"reward_std/{name.removeprefix(_COMPONENT)}"
    return f"{name}_std"


def column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Lists one figure of all rows; NaN where there is none, or no finite one.

    **Arguments:**

    - `rows`, `name`: The rows, and the figure of them.
    """
    values = [row.get(name) for row in rows]
    numbers = [math.nan if value is None else float(value) for value in values]
    found = np.asarray(numbers, np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _samples(folder: pathlib.Path) -> tuple[list[Samples], list[str]]:
    found, faults = [], []
    for path in sorted(folder.glob("step-*.png")):
        number = re.fullmatch(r"step-(\d+)\.png", path.name)
        if number is None:
            continue
        try:
            found.append(_picture(int(number[1]), path.read_bytes()))
        except (OSError, ValueError) as e:
            faults.append(f"samples/{path.name} could not be read: {e}")
    if not all(sample.panels for sample in found):
        found = [Samples(sample.step, sample.whole) for sample in found]
    return sorted(found, key=lambda sample: sample.step), faults


def _picture(step: int, content: bytes) -> Samples:
    if not is_png(content):
        raise ValueError("it is no PNG file")
    panels = split_panels(content)
    if not panels:
        return Samples(step, content)
    rows = list(dict.fromkeys(panel.row for panel in panels))
    of_row = lambda row: [panel for panel in panels if panel.row == row]
    return Samples(step, content, of_row(rows[-1]), of_row(rows[0]))


def _versions(saved: SavedRun, faults: list[str]) -> dict[str, Any]:
    path = saved.folder.versions
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError) as e:
        faults.append(f"{path.name} could not be read: {e}")
        return {}
