"""Checkpoints of plain files: each there whole, or known to be damaged."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import ArrayLike

from ..._hosts import heard_of_all, is_first
from ..._mesh import is_whole_here
from ..formats import (
    first_five,
    ModelFileError,
    new_folder,
    read_json,
    remove_folder,
    sweep,
    TensorFile,
    write_json,
    write_tensors,
)
from ._abstract import AbstractCheckpointStore, Checkpoint, numbered, over_limit


_STATE, _NOTES, _MANIFEST = "state.safetensors", "notes.json", "manifest.json"
_FORMAT = 1


class CheckpointStore(AbstractCheckpointStore):
    """Keeps checkpoints as safetensors and JSON, in `step-00000100/` and so on.

    A checkpoint is written under another name and renamed when all its bytes are on
    disk; it is renamed before it is deleted, too. Its manifest has the SHA-256 of every
    file. A kill at any moment leaves each either whole or not there.

    Of several processes the first writes, and the others wait until it has.
    """

    pattern: ClassVar[str] = r"step-(\d{8,})"

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        total_limit: int | None = None,
        permanent_every: int | None = None,
    ):
        """**Arguments:**

        - `folder`: Of the checkpoints alone; made if it is not there.
        - `total_limit`: How many to keep, the newest; `None` is all.
        - `permanent_every`: Those of every so many steps are kept besides.

        What killed processes left behind is removed.
        """
        self.folder = pathlib.Path(folder)
        self.total_limit = total_limit
        self.permanent_every = permanent_every
        # The processes of another host look like dead ones.
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)

    def steps(self) -> list[int]:
        return numbered(self.folder, self.pattern)

    def path(self, step: int) -> pathlib.Path:
        return self.folder / f"step-{step:08d}"

    def save(
        self, step: int, arrays: Mapping[str, ArrayLike], notes: Mapping[str, Any]
    ) -> pathlib.Path:
        split = [name for name, array in arrays.items() if not is_whole_here(array)]
        if split:
            raise ValueError(
                "`store` must be 'orbax' for arrays that are split over several hosts; "
                f"{len(split)} are: {first_five(split)}."
            )
        problem = None
        if is_first():
            try:
                self._write(step, arrays, notes)
            except Exception as e:
                problem = e
        done = heard_of_all(int(problem is None))
        if problem is not None:
            raise problem
        if done != {1}:
            raise OSError(f"{str(self.path(step))!r} was not written by its process.")
        return self.path(step)

    def _write(
        self, step: int, arrays: Mapping[str, ArrayLike], notes: Mapping[str, Any]
    ) -> None:
        with new_folder(self.path(step)) as new:
            write_tensors(new / _STATE, arrays, finite=False)
            write_json(new / _NOTES, dict(notes))
            files = {name: _digest(new / name) for name in (_STATE, _NOTES)}
            manifest = {"format": _FORMAT, "step": step, "files": files}
            write_json(new / _MANIFEST, manifest)
        for old in over_limit(self.steps(), self.total_limit, self.permanent_every):
            # A checkpoint too many is no reason to lose the training.
            with contextlib.suppress(OSError):
                remove_folder(self.path(old))

    def read(self, step: int) -> Checkpoint:
        """Reads the checkpoint of a `step`.

        Raises a [`draftx.io.ModelFileError`][] if a byte of it is not as it was
        written.
        """
        folder = self.path(step)
        if not folder.is_dir():
            raise ModelFileError(
                f"{str(self.folder)!r} must have a checkpoint of step {step}; it has "
                f"those of {self.steps()}."
            )
        manifest = read_json(folder / _MANIFEST)
        if manifest.get("format") != _FORMAT:
            raise ModelFileError(
                f"{str(folder)!r} must be a checkpoint of format {_FORMAT}; got "
                f"{manifest.get('format')!r}. It was written by another version."
            )
        expected = {"format": _FORMAT, "step": step, "files": {}}
        for name in (_STATE, _NOTES):
            try:
                expected["files"][name] = _digest(folder / name)
            except OSError as e:
                raise ModelFileError(f"{str(folder / name)!r}: {e}.") from e
        if manifest != expected:
            raise ModelFileError(
                f"{str(folder)!r} must be as its {_MANIFEST} says; it is damaged. Go "
                "on from an earlier one."
            )
        file = TensorFile(folder / _STATE)
        arrays = {key: file.read_exactly(key) for key in file.shapes}
        notes = json.loads((folder / _NOTES).read_text("utf-8"))
        return Checkpoint(step, arrays, notes, folder)


def _digest(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": path.stat().st_size}
