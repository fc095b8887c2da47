"""The curves of a report: which there are, and of which figures they are made."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ._charts import chart, Series, smoothed
from ._html import color, is_dashed, none, words
from ._runs import column, curve_names, figure_names, ReportedRun, spread_name


# As many steps as `curves.png` takes the mean of.
_SMOOTHING: Final = 10


def curves(runs: Sequence[ReportedRun]) -> str:
    """Draws the reward of the steps, held-out figures, and all else that has numbers.

    **Arguments:**

    - `runs`: Of the report.
    """
    charts = [_reward_chart(runs)]
    names = figure_names([row for run in runs for row in run.evaluations])
    charts += [
        chart(
            f"{words(name)}, held-out",
            _over_runs(
                runs,
                lambda run: _x(run.evaluations, 0),
                lambda run, name=name: column(run.evaluations, name),
                look="dots",
            ),
            _end(runs),
        )
        for name in names
    ]
    names = dict.fromkeys(n for run in runs for n in curve_names(run.saved.history))
    charts += [
        chart(
            words(name),
            _over_runs(
                runs,
                lambda run: _x(run.saved.history, 1),
                lambda run, name=name: column(run.saved.history, name),
                lambda run, name=name: column(run.saved.history, spread_name(name)),
            ),
            _end(runs),
        )
        for name in names
    ]
    found = "".join(charts)
    if not found:
        return none("No step was taken yet.")
    return f'<div class="charts">{found}</div>'


def _x(rows: Sequence[Mapping[str, Any]], done: int) -> np.ndarray:
    # A step has moved the adapter at its end.
    return np.asarray([row["step"] + done for row in rows], np.float64)


def _over_runs(
    runs: Sequence[ReportedRun], x: Any, y: Any, spread: Any = None, look: str = "line"
) -> list[Series]:
    found = []
    for i, run in enumerate(runs):
        name = run.name if len(runs) > 1 else ""
        width = None if spread is None else spread(run)
        if width is not None and not np.isfinite(width).any():
            width = None
        found.append(_of_run(i, name, x(run), y(run), width, look))
    return found


def _reward_chart(runs: Sequence[ReportedRun]) -> str:
    alone = len(runs) == 1
    series = []
    for i, run in enumerate(runs):
        x, y = _x(run.saved.history, 1), column(run.saved.history, "reward")
        spread = column(run.saved.history, "reward_std")
        mean = smoothed(y, _SMOOTHING)
        is_long = np.isfinite(mean).any()
        batch = _of_run(i, "mean of a batch" if alone else run.name, x, y, spread)
        if is_long:
            batch = dataclasses.replace(batch, look="thin", is_listed=alone)
        series.append(batch)
        if is_long:
            label = f"mean of {_SMOOTHING} steps"
            label = label if alone else f"{run.name}, {label}"
            series.append(_of_run(i, label, x, mean))
        if alone:
            score = column(run.evaluations, "score")
            x = _x(run.evaluations, 0)
            series.append(Series("held-out score", x, score, None, "dots", "ink", True))
    note = "The band is one standard deviation of a batch to either side."
    return chart("reward in training", series, _end(runs), note=note)


def _of_run(
    index: int,
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    spread: np.ndarray | None = None,
    look: str = "line",
) -> Series:
    return Series(name, x, y, spread, look, color(index), is_dashed(index))


def _end(runs: Sequence[ReportedRun]) -> int:
    """The last step of all runs: all charts are as long, to be compared."""
    return max(run.steps for run in runs)
