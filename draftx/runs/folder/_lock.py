"""One process a folder: a second one is told, and not made to wait."""

import contextlib
import errno
import os
import pathlib
from typing import Final

from ._folder import check_output_dir


_NAME: Final = ".lock"


class RunInUseError(RuntimeError):
    """Says that another process works in a run's folder."""


class FolderLock:
    """Holds a folder for one process, as a context; a kill of any kind lets go of it.

    The lock is the operating system's, on the file `.lock` in the folder, which has the
    number of the process that holds it.
    """

    def __init__(self, folder: pathlib.Path):
        """**Arguments:**

        - `folder`: Made if it is not there.
        """
        self.folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> "FolderLock":
        import fcntl  # Which not every system has; `import draftx` works there too.

        check_output_dir(self.folder)
        self._is_new = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _NAME
        # Not inherited by what this process starts: its child would keep the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise RunInUseError(
                f"{str(self.folder)!r} must be used by one process at a time; process "
                f"{owner or 'unknown'} works in it. Choose another folder, or wait "
                "until it is done."
            ) from e
        try:
            is_there = os.path.samestat(os.stat(path), os.fstat(descriptor))
        except FileNotFoundError:
            is_there = False
        if not is_there:  # Who made the folder for nothing has just taken it away.
            os.close(descriptor)
            return self.__enter__()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *error: object) -> None:
        del error
        if self._descriptor is None:
            return
        # A folder that was made for nothing goes, while the lock is still held.
        with contextlib.suppress(OSError):
            if self._is_new and os.listdir(self.folder) == [_NAME]:
                (self.folder / _NAME).unlink()
                self.folder.rmdir()
        os.close(self._descriptor)
        self._descriptor = None
