"""Writes `jpeg.npz`: pictures, and what Pillow makes of their JPEG encoding.

python tests/goldens/make_jpeg.py

`original_<name>` is the picture; `decoded_<name>_<subsampling>` stacks its round trips
at `qualities`, in that order. Made with Pillow 13.0.0, libjpeg-turbo 3.2.0.
"""

import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image


QUALITIES = (10, 30, 50, 75, 90, 95)
SUBSAMPLINGS = ("4:2:0", "4:4:4")


def pictures(height: int, width: int) -> dict[str, np.ndarray]:
    """A smooth, a flat, a noisy and a hard-edged picture, in bytes."""
    rng = np.random.default_rng(height * width)
    y, x = np.mgrid[:height, :width]
    waves = (127 + 120 * np.sin(x / 9 + y / 13), 127 + 100 * np.cos(x / 7))
    board = ((x // 5 + y // 7) % 2)[..., None] == 0
    images = {
        "smooth": np.stack([*waves, y * 255 / height], axis=-1),
        "flat": np.full((height, width, 3), (201, 30, 87)),
        "noisy": rng.integers(0, 256, (height, width, 3)),
        "edges": np.where(board, (250, 3, 40), (10, 240, 255)),
    }
    return {name: np.rint(image).astype(np.uint8) for name, image in images.items()}


def pillow_roundtrip(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


def main() -> None:
    originals = {
        "smooth": pictures(40, 56)["smooth"],
        "flat": pictures(64, 64)["flat"],
        "noisy": pictures(33, 47)["noisy"],
        "edges": pictures(33, 47)["edges"],
    }
    arrays: dict[str, Any] = {"qualities": np.asarray(QUALITIES)}
    for name, image in originals.items():
        arrays[f"original_{name}"] = image
        for subsampling in SUBSAMPLINGS:
            arrays[f"decoded_{name}_{subsampling}"] = np.stack(
                [pillow_roundtrip(image, quality, subsampling) for quality in QUALITIES]
            )
    path = pathlib.Path(__file__).with_name("jpeg.npz")
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
