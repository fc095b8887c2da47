"""Checkpoints: folders of a state, each there whole, or known to be damaged."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..formats import (
    ModelFileError,
    new_folder,
    read_json,
    remove_folder,
    sweep,
    TensorFile,
    write_json,
    write_tensors,
)


_STATE, _NOTES, _MANIFEST = "state.safetensors", "notes.json", "manifest.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Holds what one checkpoint has.

    - `step`: How many steps had been taken.
    - `arrays`: The state, by name.
    - `notes`: What else belongs to it, as JSON holds it.
    - `folder`: Where it was read from.
    """

    step: int
    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]
    folder: pathlib.Path


class CheckpointStore:
    """Keeps the checkpoints of one training, `step-00000100/` and so on, in a folder.

    A checkpoint is written under another name and renamed when all its bytes are on
    disk; it is renamed before it is deleted, too. Its manifest has the SHA-256 of every
    file. A kill at any moment leaves each either whole or not there.
    """

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
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)

    def steps(self) -> list[int]:
        """Lists the steps that have a checkpoint, damaged ones too, oldest first."""
        found = (re.fullmatch(r"step-(\d{8,})", p.name) for p in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> pathlib.Path:
        """Names the folder of the checkpoint of a `step`."""
        return self.folder / f"step-{step:08d}"

    def save(
        self, step: int, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]
    ) -> pathlib.Path:
        """Writes a checkpoint whole, then deletes those that are over the limit.

        **Arguments:**

        - `step`: How many steps were taken. One that is there already is replaced.
        - `arrays`: The state.
        - `notes`: What else belongs to it, as JSON holds it.

        Raises an `OSError` if it cannot be written; those already there then stay as
        they are.
        """
        path = self.path(step)
        with new_folder(path) as new:
            write_tensors(new / _STATE, arrays, finite=False)
            write_json(new / _NOTES, dict(notes))
            files = {name: _digest(new / name) for name in (_STATE, _NOTES)}
            manifest = {"format": _FORMAT, "step": step, "files": files}
            write_json(new / _MANIFEST, manifest)
        self._delete_old()
        return path

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

    def newest(self) -> Checkpoint | None:
        """Reads the newest checkpoint that is whole; `None` if there is none.

        A warning names those that are not.
        """
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except ModelFileError as e:
                warnings.warn(
                    f"A damaged checkpoint is left out, and an earlier one is looked "
                    f"for: {e}",
                    stacklevel=2,
                )
        return None

    def _delete_old(self) -> None:
        if self.total_limit is None:
            return
        rolling = [s for s in self.steps() if not self._is_permanent(s)]
        for step in rolling[: -self.total_limit]:
            # A checkpoint too many is no reason to lose the training.
            with contextlib.suppress(OSError):
                remove_folder(self.path(step))

    def _is_permanent(self, step: int) -> bool:
        return self.permanent_every is not None and step % self.permanent_every == 0


def _digest(path: pathlib.Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": path.stat().st_size}
