"""What a store of checkpoints must do, whatever its files are."""

import abc
import dataclasses
import pathlib
import re
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from ..._hosts import heard_of_all
from ..formats import ModelFileError


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


class AbstractCheckpointStore(abc.ABC):
    """Keeps the checkpoints of one training, or of one search, in a folder.

    Where several processes train together each of them calls every method, with the
    same arguments, and all see the same folder.
    """

    @abc.abstractmethod
    def steps(self) -> list[int]:
        """Lists the steps that have a checkpoint, damaged ones too, oldest first."""

    @abc.abstractmethod
    def path(self, step: int) -> pathlib.Path:
        """Names the folder of the checkpoint of a `step`."""

    @abc.abstractmethod
    def save(
        self, step: int, arrays: Mapping[str, ArrayLike], notes: Mapping[str, Any]
    ) -> pathlib.Path:
        """Writes a checkpoint whole, then deletes those that are over the limit.

        **Arguments:**

        - `step`: How many steps were taken. One that is there already is replaced.
        - `arrays`: The state.
        - `notes`: What else belongs to it, as JSON holds it.

        Raises an `OSError` if it cannot be written; those already there then stay as
        they are.
        """

    @abc.abstractmethod
    def read(self, step: int) -> Checkpoint:
        """Reads the checkpoint of a `step`.

        Raises a [`draftx.io.ModelFileError`][] if it is not as it was written.
        """

    def newest(self) -> Checkpoint | None:
        """Reads the newest checkpoint that is whole; `None` if there is none.

        A warning names those that are not.
        """
        steps = self.steps()
        if len(heard_of_all(zlib.crc32(repr(steps).encode()) >> 1)) > 1:
            raise ValueError(
                "`folder` must be one that all processes see, with the same "
                f"checkpoints; this one sees those of steps {steps}, others do not. "
                "Use a folder of a shared file system."
            )
        for step in reversed(steps):
            found, problem = None, "another process could not read it."
            try:
                found = self.read(step)
            except ModelFileError as e:
                problem = str(e)
            if heard_of_all(int(found is not None)) == {1}:
                return found
            warnings.warn(
                "A damaged checkpoint is left out, and an earlier one is looked for: "
                f"{problem}",
                stacklevel=2,
            )
        return None


def numbered(folder: pathlib.Path, pattern: str) -> list[int]:
    """Lists the steps that the names in a folder have, from the smallest.

    **Arguments:**

    - `folder`: Of the checkpoints, which may be missing.
    - `pattern`: Of their names; its group is the step.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = (re.fullmatch(pattern, name) for name in names)
    return sorted(int(match[1]) for match in found if match)


def over_limit(
    steps: list[int], total_limit: int | None, permanent_every: int | None
) -> list[int]:
    """Chooses the checkpoints that are to be deleted.

    **Arguments:**

    - `steps`: Those that are there, oldest first.
    - `total_limit`, `permanent_every`: As for `draftx.Checkpoints`.
    """
    if total_limit is None:
        return []
    rolling = [s for s in steps if permanent_every is None or s % permanent_every]
    return rolling[:-total_limit]
