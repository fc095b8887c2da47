"""Grids, curves and file sizes: what the examples show."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib


matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image


def to_uint8(images) -> np.ndarray:
    """Images in [0, 1] as bytes."""
    return np.round(255 * np.clip(np.asarray(images, np.float32), 0, 1)).astype(
        np.uint8
    )


def jpeg_bytes(images, quality: int) -> np.ndarray:
    """The size of each image's real JPEG file."""
    sizes = []
    for image in to_uint8(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        sizes.append(file.tell())
    return np.asarray(sizes)


def captioned_grid(
    path: pathlib.Path,
    rows: Mapping[str, np.ndarray],
    captions: Sequence[str],
    below: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """One row of images for each name, captions on top, and what `below` says below."""
    columns = len(captions)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.35 * columns, 1.75 * len(rows)), squeeze=False
    )
    for axis_row, (name, images) in zip(axes, rows.items(), strict=True):
        texts = [""] * columns if below is None else below[name]
        for axis, image, text in zip(axis_row, to_uint8(images), texts, strict=True):
            axis.imshow(image, interpolation="lanczos")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(text, fontsize=7)
        axis_row[0].set_ylabel(name, fontsize=9)
    for axis, caption in zip(axes[0], captions, strict=True):
        axis.set_title(_wrapped(caption), fontsize=6)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _wrapped(caption: str) -> str:
    lines = caption.replace(", on ", "\non ").replace(", ", "\n", 1)
    return lines.replace(" background", "\nbackground")


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
