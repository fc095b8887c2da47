"""Curves of a report: drawn as SVG that stretches, with words that do not.

Lines are in units of the plot, a thousand to a side, and keep their width however it is
stretched. Numbers and words are HTML beside it, as large on a phone as anywhere.
"""

import dataclasses
import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np


# More points than there are pixels to show them.
_MOST_POINTS = 300
_SIDE: Final = 1000
NUMBER_OF_COLORS: Final = 6


@dataclasses.dataclass(frozen=True)
class Series:
    """Holds one curve of a chart.

    - `name`: For the legend and the values under a pointer.
    - `x`, `y`: Its points; one that is not finite leaves a gap.
    - `spread`: Of each point, or `None`.
    - `look`: "line", "thin" or "dots".
    - `color`: A number below `NUMBER_OF_COLORS`, or "ink".
    - `is_dashed`: To tell runs apart that have the same color.
    - `is_listed`: Whether the legend has it.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None
    look: str = "line"
    color: int | str = 0
    is_dashed: bool = False
    is_listed: bool = True


def chart(title: str, series: Sequence[Series], end: int, *, note: str = "") -> str:
    """Draws curves over training steps as a `<figure>`; nothing if none has a point.

    **Arguments:**

    - `title`, `series`: What it is called, and the curves, the last on top.
    - `end`: Of the axis, in steps.
    - `note`: What is to be known to read it; a chart with one has the page's width.
    """
    series = [_thinned(one) for one in series if np.isfinite(one.y).any()]
    if not series:
        return ""
    x_range = 0.0, float(max(end, 1))
    y_ticks, y_range = _ticks(*_y_range(series))
    x_ticks = [tick for tick in _ticks(*x_range, whole=True)[0] if tick <= x_range[1]]
    place = _Place(x_range, y_range)
    grid = "".join(
        f'<path class="grid" d="M0 {place.y(tick):.1f}H{_SIDE}"/>' for tick in y_ticks
    )
    body = "".join(_band(one, place) for one in series)
    body += "".join(_curve(one, place) for one in series)
    labels = "".join(
        f'<span class="y" style="top:{place.y(tick) / 10:.2f}%">{_number(tick)}</span>'
        for tick in y_ticks
    ) + "".join(
        f'<span class="x" style="left:{place.x(tick) / 10:.2f}%">{_number(tick)}</span>'
        for tick in x_ticks
    )
    name = html.escape(title)
    values = json.dumps([_values(one) for one in series], allow_nan=False)
    return (
        f'<figure class="chart{" wide" * bool(note)}">'
        f"<figcaption><b>{name}</b>{_legend(series)}</figcaption>"
        f'<div class="plot" data-x="{x_range[0]:g} {x_range[1]:g}" '
        f'data-series="{html.escape(values)}">'
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{name} over training steps">{grid}{body}</svg>{labels}'
        '<div class="cross" hidden></div><div class="tip" hidden></div></div>'
        f"{f'<p class=note>{html.escape(note)}</p>' if note else ''}</figure>"
    )


def smoothed(y: np.ndarray, width: int) -> np.ndarray:
    """Averages each value with those before it, finite ones alone.

    **Arguments:**

    - `y`: The values.
    - `width`: How many; the first `width - 1` are NaN.
    """
    out = np.full(len(y), np.nan)
    for i in range(width - 1, len(y)):
        window = y[i + 1 - width : i + 1]
        window = window[np.isfinite(window)]
        out[i] = window.mean() if len(window) else np.nan
    return out


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where values are in the plot."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _SIDE * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _SIDE * (high - value) / (high - low)


def _thinned(series: Series) -> Series:
    """With means of neighbours for points, if there are too many."""
    count = math.ceil(len(series.x) / _MOST_POINTS)
    if count < 2 or series.look == "dots":
        return series
    mean = lambda values: np.asarray(
        [
            part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan
            for part in np.split(values, range(count, len(values), count))
        ]
    )
    spread = None if series.spread is None else mean(series.spread)
    return dataclasses.replace(
        series, x=mean(series.x), y=mean(series.y), spread=spread
    )


def _y_range(series: Sequence[Series]) -> tuple[float, float]:
    values = [one.y for one in series]
    for one in series:
        if one.spread is not None:
            values += [one.y - one.spread, one.y + one.spread]
    joined = np.concatenate(values)
    joined = joined[np.isfinite(joined)]
    low, high = float(joined.min()), float(joined.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = abs(low) / 10 or 1.0
        return low - margin, high + margin
    return low, high


def _ticks(
    low: float, high: float, *, whole: bool = False
) -> tuple[list[float], tuple[float, float]]:
    """Four or so round numbers about a range, and the range that they span."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= 0.999 * rough)
    if whole:
        step = float(max(1, round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    return ticks, (ticks[0], ticks[-1])


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}", 1)


def _pieces(series: Series, y: np.ndarray) -> Iterable[list[tuple[float, float]]]:
    """The stretches of a curve that have no gap."""
    piece: list[tuple[float, float]] = []
    for x_value, y_value in zip(series.x, y, strict=True):
        if np.isfinite(x_value) and np.isfinite(y_value):
            piece.append((float(x_value), float(y_value)))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def _path(points: Sequence[tuple[float, float]], place: _Place) -> str:
    return "L".join(f"{place.x(x):.1f} {place.y(y):.1f}" for x, y in points)


def _band(series: Series, place: _Place) -> str:
    if series.spread is None:
        return ""
    spread = np.nan_to_num(series.spread)
    above = _pieces(series, series.y + spread)
    below = _pieces(series, series.y - spread)
    data = "".join(
        f"M{_path(one, place)}L{_path(other[::-1], place)}Z"
        for one, other in zip(above, below, strict=True)
    )
    return f'<path class="band {_color(series)}" d="{data}"/>'


def _curve(series: Series, place: _Place) -> str:
    pieces = list(_pieces(series, series.y))
    kind = f"{series.look} {_color(series)}{' dashed' * series.is_dashed}"
    found = "".join(
        f'<path class="{kind}" d="M{_path(piece, place)}"/>'
        for piece in pieces
        if len(piece) > 1
    )
    # A line of no length with round ends is a dot that is never stretched.
    marked = [p for piece in pieces for p in piece if series.look == "dots"]
    marked += [p[0] for p in pieces if len(p) == 1 and series.look != "dots"]
    dots = "".join(f"M{_path([point], place)}h0" for point in marked)
    return found + (f'<path class="dot {_color(series)}" d="{dots}"/>' if dots else "")


def _color(series: Series) -> str:
    return f"c-{series.color}"


def _legend(series: Sequence[Series]) -> str:
    named = [one for one in series if one.name and one.is_listed]
    return "".join(
        f'<span class="key {one.look} {_color(one)}{" dashed" * one.is_dashed}">'
        f"<i></i>{html.escape(one.name)}</span>"
        for one in named
    )


def _values(series: Series) -> dict[str, Any]:
    shown = lambda values: [
        float(f"{value:.5g}") if math.isfinite(value) else None for value in values
    ]
    found: dict[str, Any] = {
        "name": series.name,
        "color": _color(series),
        "x": shown(series.x),
        "y": shown(series.y),
    }
    if series.spread is not None:
        found["spread"] = shown(series.spread)
    return found
