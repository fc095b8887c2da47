"""Where the images of a grid are: written into its PNG file, and taken out of it again.

A text chunk of the keyword `draftx` (PNG, third edition, 11.3.3) holds it as JSON, so
that a grid stays one picture for people and is single images for a page.
"""

import io
import json
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np


KEYWORD: Final = "draftx"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Of the frame around an image, in pixels of the file.
_FRAME = 2


class Panel(NamedTuple):
    """Holds one image of a grid.

    - `row`: The name of its row.
    - `caption`: What stands above its column.
    - `png`: The image alone, as a PNG file.
    """

    row: str
    caption: str
    png: bytes


def describe_panels(
    rows: Sequence[str], captions: Sequence[str], boxes: Sequence[Any]
) -> str:
    """Writes what the text chunk of a grid holds.

    **Arguments:**

    - `rows`, `captions`: The names of the rows, what stands above the columns.
    - `boxes`: Left, bottom, width and height of each image, row by row, as parts of
        the picture's.
    """
    boxes = [[round(float(x), 6) for x in box] for box in boxes]
    return json.dumps(
        {"rows": list(rows), "captions": list(captions), "boxes": boxes},
        ensure_ascii=True,
    )


def is_png(content: bytes) -> bool:
    """Tells whether the `content` of a file begins as PNG files do."""
    return content.startswith(_SIGNATURE)


def split_panels(content: bytes) -> list[Panel]:
    """Takes the images out of a grid, row by row.

    **Arguments:**

    - `content`: Of the PNG file. One that does not say where its images are gives
        none.

    Raises a `ValueError` if the picture is damaged.
    """
    text = _text_chunk(content)
    if text is None:
        return []
    try:
        pixels = _read(content)
        described = json.loads(text)
        places = [
            (row, caption)
            for row in described["rows"]
            for caption in described["captions"]
        ]
        return [
            Panel(str(row), str(caption), _write(_crop(pixels, _Box(*box))))
            for (row, caption), box in zip(places, described["boxes"], strict=True)
        ]
    except Exception as e:
        # Whatever a decoder of pictures may raise on bytes that are no picture.
        raise ValueError(f"the picture is damaged ({type(e).__name__}: {e})") from e


class _Box(NamedTuple):
    left: float
    bottom: float
    width: float
    height: float


def _crop(pixels: np.ndarray, box: _Box) -> np.ndarray:
    rows, columns = pixels.shape[:2]
    top, end = 1 - box.bottom - box.height, 1 - box.bottom
    of_rows = slice(round(rows * top) + _FRAME, round(rows * end) - _FRAME)
    left, right = round(columns * box.left), round(columns * (box.left + box.width))
    return pixels[of_rows, left + _FRAME : right - _FRAME]


def _text_chunk(content: bytes) -> str | None:
    """The text of the keyword, before the pixels or behind them."""
    place = len(_SIGNATURE)
    while place + 12 <= len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        data = content[place + 8 : place + 8 + size]
        name, _, text = data.partition(b"\0")
        if kind == b"tEXt" and name == KEYWORD.encode():
            return text.decode("latin-1")
        place += 12 + size
    return None


def _read(content: bytes) -> np.ndarray:
    from matplotlib import image  # Takes a second, which only those wait for who draw.

    pixels = image.imread(io.BytesIO(content), format="png")
    return np.round(255 * pixels[..., :3]).astype(np.uint8)


def _write(pixels: np.ndarray) -> bytes:
    from matplotlib import image

    file = io.BytesIO()
    image.imsave(file, pixels, format="png", pil_kwargs={"optimize": True})
    return file.getvalue()
