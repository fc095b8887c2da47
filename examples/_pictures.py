"""Grids, curves and file sizes: what the examples show."""

import io
import json
import pathlib

import matplotlib


matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

from draftx.runs import captioned_grid as captioned_grid, to_uint8 as to_uint8


def jpeg_bytes(images, quality: int) -> np.ndarray:
    """The size of each image's real JPEG file."""
    sizes = []
    for image in to_uint8(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        sizes.append(file.tell())
    return np.asarray(sizes)


def file_sizes(images, prompts) -> dict[str, float]:
    """Of real JPEG files, in bytes; a flat image's file is all header."""
    del prompts
    flat = np.full_like(np.asarray(images[:1]), 0.5)
    figures = {}
    for quality in (80, 95):
        size = float(jpeg_bytes(images, quality).mean())
        figures[f"bytes_q{quality}"] = size
        header = float(jpeg_bytes(flat, quality).mean())
        figures[f"bytes_above_flat_q{quality}"] = size - header
    return figures


def bytes_below(images) -> list[str]:
    return [f"{size} B" for size in jpeg_bytes(images, 80)]


def curve(path: pathlib.Path, log: pathlib.Path, *, title: str) -> None:
    """The reward at each step of a `metrics.jsonl`, with a running mean."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = np.array([row["step"] for row in rows])
    reward = np.array([row["reward"] for row in rows])
    spread = np.array([row["reward_std"] for row in rows])
    width = 10
    figure, axis = plt.subplots(figsize=(6, 3.5))
    axis.fill_between(steps, reward - spread, reward + spread, alpha=0.15, lw=0)
    axis.plot(steps, reward, lw=0.8, alpha=0.6, label="batch mean (band: spread)")
    if len(rows) > width:
        mean = np.convolve(reward, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], mean, lw=2, label=f"mean of {width} steps")
    axis.set(xlabel="training step", ylabel="reward", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
