"""What commands write: whether they may, and how large it is."""

import os
import pathlib


def check_new(output: pathlib.Path) -> None:
    """Raises before long work unless something new can be written.

    **Arguments:**

    - `output`: The file or folder to write.
    """
    if output.exists():
        raise ValueError(
            f"`output` must be new; {str(output)!r} exists. Choose another name, or "
            "delete it."
        )
    parents = output.resolve().parents
    folder = next(parent for parent in parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            "`output` must be in a folder that can be written to; "
            f"{str(folder)!r} is none."
        )


def size_text(count: int) -> str:
    """Writes a size as people do, in powers of 1000 as the hub does.

    **Arguments:**

    - `count`: Of bytes.
    """
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
