import functools as ft
import hashlib
import pathlib

from ._errors import ModelFileError


def check_sha256(path: pathlib.Path, expected: str, remedy: str) -> None:
    """Raises unless a file is the published one, byte by byte.

    **Arguments:**

    - `path`: The file, read piece by piece.
    - `expected`: The digest, in hexadecimal.
    - `remedy`: How to get the right one, for the error text.
    """
    try:
        stat = path.stat()
        got = _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as e:
        raise ModelFileError(f"{str(path)!r} cannot be read: {e}.") from e
    if got != expected:
        raise ModelFileError(
            f"{str(path)!r} must be the published file, of SHA-256 {expected}; it has "
            f"{got} and {stat.st_size} bytes: damaged, or only partly there. {remedy}."
        )


# Gigabytes are not read twice in one process.
@ft.lru_cache(maxsize=64)
def _sha256(path: pathlib.Path, size: int, mtime: int) -> str:
    del size, mtime  # Another file of the same name is another entry.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
