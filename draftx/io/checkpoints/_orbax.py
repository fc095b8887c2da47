"""Checkpoints of Orbax: every process writes its own part of the arrays."""

import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import ArrayLike

from ..._mesh import is_whole_here
from ..formats import ModelFileError
from ._abstract import AbstractCheckpointStore, Checkpoint, numbered, over_limit


_FORMAT = 1


class OrbaxStore(AbstractCheckpointStore):
    """Keeps checkpoints with Orbax, in `step_00000100/` and so on.

    Needs `pip install 'draftx[orbax]'`. Orbax writes under another name and renames at
    the end, so a kill while it writes leaves those before. It has no hashes of arrays,
    and gives other numbers for a byte that changed on disk: their SHA-256 are therefore
    in the metadata, beside the notes, and are looked at when a checkpoint is read. Of
    an array that is split over several hosts there is none.
    """

    pattern: ClassVar[str] = r"step_(\d{8,})"

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        total_limit: int | None = None,
        permanent_every: int | None = None,
    ):
        """**Arguments:**

        - `folder`, `total_limit`, `permanent_every`: As for
            [`draftx.io.checkpoints.CheckpointStore`][].
        """
        self.folder = pathlib.Path(folder)
        self.total_limit = total_limit
        self.permanent_every = permanent_every
        self._ocp = import_orbax()

    def steps(self) -> list[int]:
        return numbered(self.folder, self.pattern)

    def path(self, step: int) -> pathlib.Path:
        return self.folder / f"step_{step:08d}"

    def save(
        self, step: int, arrays: Mapping[str, ArrayLike], notes: Mapping[str, Any]
    ) -> pathlib.Path:
        given = {
            name: array if isinstance(array, jax.Array) else np.asarray(array)
            for name, array in arrays.items()
        }
        # Paths in a tree have dots and brackets, which Orbax reads as its own.
        described = {
            name: {"key": f"array_{i:06d}"} | _describe(array)
            for i, (name, array) in enumerate(given.items())
        }
        about = dict(format=_FORMAT, step=step, arrays=described, notes=dict(notes))
        # As it will be read: the keys of JSON are texts.
        about = json.loads(json.dumps(about))
        state = {
            described[name]["key"]: array
            for name, array in given.items()
            # Orbax refuses those without numbers.
            if array.size
        }
        try:
            with self._checkpointer() as checkpointer:
                checkpointer.save(
                    step,
                    state,
                    # Those after it may have been written by a training gone back.
                    force=True,
                    overwrite=True,
                    custom_metadata={"about": about, "sha256": _digest(about)},
                )
        # A full disk is a ValueError of its library.
        except Exception as e:
            path = str(self.path(step))
            raise OSError(f"{path!r} could not be written by Orbax: {e}") from e
        return self.path(step)

    def _checkpointer(self) -> Any:
        training = self._ocp.training
        return training.Checkpointer(
            self.folder.absolute(),
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_Preserved(self.total_limit, self.permanent_every),
            step_name_format=self._ocp.path.step.standard_name_format(
                step_prefix="step", step_format_fixed_length=8
            ),
            cleanup_tmp_directories=True,
            # Or one that is damaged would keep the next from being written.
            lightweight_initialize=True,
        )

    def read(self, step: int) -> Checkpoint:
        folder = self.path(step)
        if not folder.is_dir():
            raise ModelFileError(
                f"{str(self.folder)!r} must have a checkpoint of step {step}; it has "
                f"those of {self.steps()}."
            )
        try:
            return self._read(step, folder.absolute())
        except ModelFileError:
            raise
        # Whatever its parsers say of bytes that are not as they were.
        except Exception as e:
            raise ModelFileError(
                f"{str(folder)!r} cannot be read by Orbax; it is damaged: "
                f"{type(e).__name__}: {str(e)[:200]} Go on from an earlier one."
            ) from e

    def _read(self, step: int, folder: pathlib.Path) -> Checkpoint:
        metadata = self._ocp.metadata(folder).custom_metadata
        about = metadata["about"]
        if about["format"] != _FORMAT:
            raise ModelFileError(
                f"{str(folder)!r} must be a checkpoint of format {_FORMAT}; got "
                f"{about['format']!r}. It was written by another version."
            )
        known = about["arrays"]
        arrays = {n: np.empty(of["shape"], of["dtype"]) for n, of in known.items()}
        names = {of["key"]: n for n, of in known.items() if arrays[n].size}
        state = self._ocp.load(folder, {key: arrays[n] for key, n in names.items()})
        arrays |= {names[key]: np.asarray(array) for key, array in state.items()}
        fine = [known[n]["sha256"] in (None, _sha256(x)) for n, x in arrays.items()]
        is_same = metadata["sha256"] == _digest(about) and about["step"] == step
        if not is_same or not all(fine):
            raise ModelFileError(
                f"{str(folder)!r} must be as its metadata says; it is damaged. Go on "
                "from an earlier one."
            )
        return Checkpoint(step, arrays, about["notes"], folder)


@dataclasses.dataclass(frozen=True)
class _Preserved:
    """Tells Orbax which checkpoints to keep: its own policies count the permanent ones
    among the newest."""

    total_limit: int | None
    permanent_every: int | None

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        old = over_limit(sorted(steps), self.total_limit, self.permanent_every)
        return [step not in old for step in steps]


def import_orbax() -> Any:
    """Imports Orbax; a `ValueError` names what installs it, if it is not there."""
    try:
        # By name: whoever reads the types of draftx may lack the optional package.
        v1 = importlib.import_module("orbax.checkpoint").v1
    except (ImportError, AttributeError) as e:
        raise ValueError(
            "`store` must be one whose package is installed; got 'orbax', and "
            "`import orbax.checkpoint.v1` says: "
            f"{e}. `pip install 'draftx[orbax]'` gets it."
        ) from e
    return v1


def _describe(array: jax.Array | np.ndarray) -> dict[str, Any]:
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": _sha256(array) if is_whole_here(array) else None,
    }


def _sha256(array: Any) -> str:
    return hashlib.sha256(np.asarray(array, order="C").tobytes()).hexdigest()


def _digest(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
