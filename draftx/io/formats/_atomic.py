"""Writing so that a file or folder is there whole or not at all."""

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import Any


# Letters of a name that are in the one of what is being written.
_KEPT = 50


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sibling(path: pathlib.Path, kind: str) -> pathlib.Path:
    # On the same file system as the target, so that renaming is atomic. Names have at
    # most 255 bytes, of which a letter can have four.
    end = f"{kind}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.name[:_KEPT]}.{end}")


def write_file(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Calls `write` with a temporary name, then gives the file its own name.

    **Arguments:**

    - `path`: The file to make or to replace; missing folders are made. Who may read it
        is as for any new file: what the process's umask leaves.
    - `write`: Writes the file it is given the path of.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path, "tmp")
    try:
        with _named(path):
            _write(temporary, write)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def _write(temporary: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    # The umask cannot be asked for without changing it for all threads.
    temporary.touch()
    mode = stat.S_IMODE(temporary.stat().st_mode)
    write(temporary)
    # Some writers put a file of their own there, readable by its owner alone.
    temporary.chmod(mode)
    _fsync(temporary)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Lets an error of the disk say which file could not be written."""
    try:
        yield
    except OSError as e:
        if e.filename is not None or e.errno is None:
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e


def write_bytes(path: pathlib.Path, data: bytes) -> None:
    """Writes `data` to `path`."""
    write_file(path, lambda temporary: temporary.write_bytes(data))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes `text` to `path`: UTF-8, lines ending in `\\n` on every system."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON as diffusers and transformers do.

    **Arguments:**

    - `path`: The file.
    - `content`: What JSON can hold.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder to fill, which gets the name `path` when the block ends well.

    A folder that is there already is replaced; if the block raises, it is left alone.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_of(path)
    temporary, old = _sibling(path, "tmp"), _sibling(path, "old")
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except BaseException:
            if old.exists():
                os.rename(old, path)
            raise
        _fsync(path.parent)
        # Only now, when the new one is in its place.
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(
    folder: pathlib.Path, kind: str, is_one: Callable[[pathlib.Path], bool]
) -> None:
    """Raises unless a folder is not there, is empty, or is of the kind to be written.

    **Arguments:**

    - `folder`: To be written.
    - `kind`: What is saved there: "pipeline".
    - `is_one`: Whether a folder with something in it is one.
    """
    if not folder.exists():
        return
    got = "a file"
    if folder.is_dir():
        if not any(folder.iterdir()) or is_one(folder):
            return
        got = "a folder with other files in it"
    raise ValueError(
        f"`folder` must be new, empty or a saved {kind}; {str(folder)!r} is {got}. "
        "Choose another name."
    )


def remove_folder(path: pathlib.Path) -> None:
    """Deletes a folder, which loses its name first: no half of it is ever seen.

    **Arguments:**

    - `path`: The folder.
    """
    trash = _sibling(path.resolve(), "old")
    os.rename(path, trash)
    shutil.rmtree(trash)


def sweep(folder: pathlib.Path) -> None:
    """Deletes what killed processes of this machine left half-written or half-deleted.

    **Arguments:**

    - `folder`: In which files and folders were written.
    """
    _delete_dead(folder, r"\..+\.(?:tmp|old)")


def sweep_of(path: pathlib.Path) -> None:
    """Deletes what killed processes of this machine left of one file or folder.

    **Arguments:**

    - `path`: To be written. While it is not there, what it was is left alone: a kill
        may have come just before the new one got its name.
    """
    if path.parent.is_dir():
        kinds = "(?:tmp|old)" if path.exists() else "tmp"
        name = re.escape(path.name[:_KEPT])
        _delete_dead(path.parent, rf"\.{name}\.{kinds}")


def _delete_dead(folder: pathlib.Path, start: str) -> None:
    for path in folder.iterdir():
        match = re.fullmatch(rf"{start}-(\d+)-[0-9a-f]{{8}}", path.name)
        if match is None or _is_alive(int(match[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
