"""Pictures that belong to prompts: files that name them, and models that need them."""

import pathlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from ..._table import Table
from ...pipeline import check_channels, latent_shape, Pipeline, Sampling


# Names that end so are files of pictures, in a table of numbers too.
PICTURE_ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_COLUMN: Final = "conditioning_image"


def read_pictures(
    path: pathlib.Path, name: str, files: Sequence[Any]
) -> Float[np.ndarray, "rows height width 3"]:
    """Reads the pictures that a column names, in [0, 1].

    **Arguments:**

    - `path`: The file of prompts, in whose folder names of files begin.
    - `name`: Of the column.
    - `files`: One for each row, all of one size.

    Raises a `ValueError` that names the column, the row and the file.
    """
    pictures: list[np.ndarray] = []
    for row, file in enumerate(files, 1):
        where = f"row {row} of {str(path)!r}"
        if not isinstance(file, str):
            raise ValueError(
                f"`prompts[{name!r}]` must name a file in each row, or in none; "
                f"{where} has {str(file)[:80]!r}."
            )
        picture = _read(path.parent / file, name, where)
        if pictures and picture.shape != pictures[0].shape:
            sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (picture, pictures[0])]
            raise ValueError(
                f"`prompts[{name!r}]` must name pictures of one size; {where}, "
                f"{file!r}, has {sizes[0]} pixels, and the first has {sizes[1]}. "
                "Resize them."
            )
        pictures.append(picture)
    return np.stack(pictures).astype(np.float32) / 255


def check_pictures_of(
    pipeline: Pipeline, table: Table, sampling: Sampling, *, given: str, flag: str
) -> None:
    """Raises unless rows have what a model sees beside the text, before it is asked.

    **Arguments:**

    - `pipeline`, `sampling`: What draws, and how.
    - `table`: The rows.
    - `given`: The option that they are of.
    - `flag`: The option that names a file of rows with pictures.
    """
    height, width, _ = latent_shape(pipeline, sampling)
    config = pipeline.vae.config
    sees_image = pipeline.conditioning_channels == config.latent_channels
    if sees_image and not {_COLUMN, "conditioning"} & set(table.names):
        factor = config.downsampling_factor
        line = f'{{"prompt": "a fox", "{_COLUMN}": "fox.png"}}'
        name = "Name" if given.replace("_", "-") == flag else "Leave it out, and name"
        raise ValueError(
            f"`{given}` must have a picture for each prompt, which this model sees "
            f"beside the text; got the columns {table.names}. {name} a .jsonl file "
            f"with `--{flag}`, of lines such as '{line}': pictures of {factor * width}x"
            f"{factor * height} pixels, by their paths from the file's own folder."
            f"{table.slip(_COLUMN)}"
        )
    try:
        check_channels(pipeline, table, (len(table), height, width))
    except ValueError as e:
        raise ValueError(f"`{given}` cannot be drawn by this model: {e}") from e


def _read(file: pathlib.Path, name: str, where: str) -> np.ndarray:
    # Comes with matplotlib, which draws the grids.
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError("it has more than 8 bits a color; save it with 8")
            # Cameras turn pictures by a note beside them.
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # A name with a NUL in it is a `ValueError`; damaged files are of many kinds.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise ValueError(
            f"`prompts[{name!r}]` must name files of pictures; {where} names "
            f"{str(file)!r}: {getattr(e, 'strerror', None) or e}."
        ) from e
