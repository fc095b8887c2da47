"""Grids of images and curves of a run, as files."""

import contextlib
import io
import math
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...io.formats import write_bytes
from ._panels import describe_panels, KEYWORD


def to_uint8(images: Any) -> np.ndarray:
    """Rounds images in [0, 1] to bytes.

    **Arguments:**

    - `images`: Floats; what is beyond [0, 1] is clipped.
    """
    clipped = np.clip(np.asarray(images, np.float32), 0, 1)
    return np.round(255 * clipped).astype(np.uint8)


def captioned_grid(
    path: pathlib.Path,
    rows: Mapping[str, Any],
    captions: Sequence[str],
    below: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes a picture with one row of images for each name.

    The file says where each image is, for those who want them singly.

    **Arguments:**

    - `path`: Of the PNG file; written whole or not at all.
    - `rows`: Images in [0, 1] by name, as many in each as there are captions.
    - `captions`: Above the columns.
    - `below`: What stands below each image, by row.
    """
    columns = len(captions)
    figure = _figure(1.35 * columns, 1.75 * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis_row, (name, images) in zip(axes, rows.items(), strict=True):
        texts = [""] * columns if below is None else below[name]
        for axis, image, text in zip(axis_row, to_uint8(images), texts, strict=True):
            axis.imshow(image, interpolation="lanczos")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(text, fontsize=7, parse_math=False)
        axis_row[0].set_ylabel(name, fontsize=9, parse_math=False)
    for axis, caption in zip(axes[0], captions, strict=True):
        axis.set_title(_wrapped(caption), fontsize=6, parse_math=False)
    with _without_letters():
        figure.tight_layout(pad=0.4)
    boxes = []
    for axis in axes.flat:
        # As drawing does it: an image keeps its shape within its place.
        axis.apply_aspect()
        boxes.append(axis.get_position().bounds)
    _save(figure, path, {KEYWORD: describe_panels(list(rows), captions, boxes)})


def curves(
    path: pathlib.Path,
    history: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    *,
    title: str,
) -> None:
    """Draws the reward of each step, and what was measured on held-out prompts.

    Below it, each on its own scale, the rewards of a sum of several.

    **Arguments:**

    - `path`: Of the PNG file; written whole or not at all.
    - `history`: Rows with `step`, `reward` and `reward_std`, and perhaps those of named
        rewards.
    - `evaluations`: With `step` and `score`.
    - `title`: Above the curves.
    """
    names = dict.fromkeys(n for row in history for n in row if n.startswith("reward/"))
    parts = [name.removeprefix("reward/") for name in names if len(names) > 1]
    heights = [3.5] + [2.0] * len(parts)
    figure = _figure(6.0, sum(heights))
    axes = figure.subplots(
        len(heights), sharex=True, squeeze=False, height_ratios=heights
    )
    axis, *below = axes[:, 0]
    if history:
        _draw_reward(axis, history)
    for part_axis, part in zip(below, parts, strict=True):
        _draw_reward(part_axis, history, f"/{part}")
        part_axis.set_ylabel(part, parse_math=False)
    held_out = [row for row in evaluations if math.isfinite(row["score"])]
    if held_out:
        axis.plot(
            [row["step"] for row in held_out],
            [row["score"] for row in held_out],
            "ko--",
            lw=1,
            label="held-out score",
        )
    axis.set_ylabel("reward")
    (below or [axis])[-1].set_xlabel("training steps")
    axis.set_title(title, parse_math=False)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    with _without_letters():
        figure.tight_layout()
    _save(figure, path)


def _draw_reward(axis: Any, history: Sequence[Mapping[str, Any]], of: str = "") -> None:
    column = lambda name: np.asarray([row.get(name, math.nan) for row in history])
    reward, spread = column(f"reward{of}"), column(f"reward_std{of}")
    steps = column("step") + 1  # A step has moved the adapter at its end.
    axis.fill_between(steps, reward - spread, reward + spread, alpha=0.15, lw=0)
    axis.plot(steps, reward, lw=0.8, alpha=0.6, label="batch mean (band: spread)")
    width = 10
    if len(history) > width:
        mean = np.convolve(reward, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], mean, lw=2, label=f"mean of {width} steps")


def _figure(width: float, height: float) -> Any:
    # Takes a second to import, which only those wait for who draw. Not by pyplot, whose
    # windows and notebooks are the user's.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


@contextlib.contextmanager
def _without_letters() -> Iterator[None]:
    """Draws a box for a letter that the font lacks, such as an emoji, and says
    nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _save(
    figure: Any, path: pathlib.Path, texts: Mapping[str, str] | None = None
) -> None:
    file = io.BytesIO()
    with _without_letters():
        figure.savefig(file, format="png", dpi=150, metadata=texts)
    write_bytes(path, file.getvalue())


def _wrapped(caption: str) -> str:
    """Over several lines, at commas and after some twenty letters."""
    lines, line = [], ""
    for word in caption.replace(", ", ",\n").split(" "):
        if line and len(line.rpartition("\n")[2]) + len(word) > 20:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line][:5])
