"""Plots of the benchmarks, as PNG files."""

import pathlib
from typing import Any

import matplotlib
from matplotlib.figure import Figure


matplotlib.use("Agg")
# Colors that differ for the color-blind too; markers, for black and white.
_STYLES = {
    "none": ("#D55E00", "o"),
    "ff": ("#E69F00", "s"),
    "block": ("#0072B2", "^"),
    "step": ("#009E73", "D"),
    "nested": ("#CC79A7", "v"),
}


def plot_memory(path: pathlib.Path, rows: list[dict[str, Any]], title: str) -> None:
    """Memory over K and, if there is any, time over K: one line a remat tier."""
    rows = [row for row in rows if "peak_mib" in row]
    panels = [("peak_mib", "peak memory, MiB")]
    if any("seconds" in row for row in rows):
        panels.append(("seconds", "seconds a gradient"))
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for i, (key, label) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for remat in dict.fromkeys(row["remat"] for row in rows):
            of_tier = [row for row in rows if row["remat"] == remat and key in row]
            of_tier.sort(key=lambda row: row["k"])
            if not of_tier:
                continue
            color, marker = _STYLES[remat]
            ks, values = zip(*((row["k"], row[key]) for row in of_tier), strict=True)
            axes.plot(ks, values, marker=marker, color=color, label=f"remat {remat}")
            if key == "seconds":
                low = [row["seconds_p10"] for row in of_tier]
                high = [row["seconds_p90"] for row in of_tier]
                axes.fill_between(ks, low, high, color=color, alpha=0.2, linewidth=0)
        if key == "peak_mib":
            inputs = max(row["arguments_mib"] for row in rows)
            axes.axhline(inputs, color="gray", linestyle=":", label="weights, inputs")
        axes.set(xlabel="K, differentiated steps", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({row["k"] for row in rows}))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)
