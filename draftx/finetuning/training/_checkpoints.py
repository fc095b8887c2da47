"""Where a training is saved, and what a saved one must have in common with it."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..._checks import check_is, check_whole, is_whole, plain
from ..._fingerprint import fingerprint
from ..._table import Table
from ...io.checkpoints import Checkpoint, CheckpointStore


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Says where and when the state of a training is saved, and whether to go on.

    A training that is called again with the same arguments goes on from the newest
    checkpoint that is whole, and gives what it would have given without the
    interruption, bit for bit; times excepted. It may have more steps than before.

    Between steps, the first Ctrl-C or SIGTERM saves and ends the training, whose result
    then says so in `stopped`; the second ends the process.

    **Arguments:**

    - `folder`: For the checkpoints of one training.
    - `every`: Saves after every so many steps, and at the end.
    - `total_limit`: How many checkpoints are kept, the newest; `None` is all.
    - `permanent_every`: Those of every so many steps are kept besides; `None` is none.
    - `resume`: `True` goes on from the newest; `False` is an error if there is any; a
        whole number goes on from that step's.
    - `allow_changes`: Whether to go on with other options than it was begun with.
    """

    folder: str | os.PathLike
    every: int = 50
    total_limit: int | None = 3
    permanent_every: int | None = None
    resume: bool | int = True
    allow_changes: bool = False

    def __post_init__(self):
        for name in ("every", "total_limit", "permanent_every", "resume"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        check_whole("every", self.every)
        for name in ("total_limit", "permanent_every"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
        if not isinstance(self.resume, bool) and not is_whole(self.resume):
            raise ValueError(
                "`resume` must be True (the newest), False or the number of a step; "
                f"got {self.resume!r}."
            )

    def open(self) -> CheckpointStore:
        """Makes the folder, if need be, and finds what is in it."""
        return CheckpointStore(
            self.folder,
            total_limit=self.total_limit,
            permanent_every=self.permanent_every,
        )

    def find(self, facts: Mapping[str, str], num_train_steps: int) -> Checkpoint | None:
        """Reads the checkpoint to go on from; `None` if the training is a new one.

        **Arguments:**

        - `facts`: What the training is made of, from `describe_training`.
        - `num_train_steps`: Of the training.

        Raises a `ValueError` that shows what was changed since.
        """
        store = self.open()
        if self.resume is False:
            if store.steps():
                raise ValueError(
                    "`folder` must have no checkpoints for a training that is not to "
                    f"go on from one; {str(self.folder)!r} has those of steps "
                    f"{store.steps()}. Choose another folder, or `resume=True`."
                )
            return None
        found = store.newest() if self.resume is True else store.read(self.resume)
        if found is None:
            return None
        _check_facts(facts, found, self.allow_changes)
        if found.step > num_train_steps:
            raise ValueError(
                f"`num_train_steps` must be at least {found.step}, the steps that "
                f"{str(found.folder)!r} has taken; got {num_train_steps}."
            )
        return found


def check_checkpoints(checkpoints: Any) -> None:
    """Raises unless `checkpoints` is a `Checkpoints` or `None`."""
    if checkpoints is not None:
        example = 'draftx.Checkpoints("run/checkpoints")'
        check_is("checkpoints", checkpoints, Checkpoints, example)


def describe_training(
    pipeline: Any, table: Table, key: Any, options: Mapping[str, Any]
) -> dict[str, str]:
    """Describes what decides the course of a training, as text to be compared.

    **Arguments:**

    - `pipeline`: As it begins, described by its structure and some of its numbers.
    - `table`, `key`: The prompts, and what draws from them.
    - `options`: Everything else, by the name that its user gave it.
    """
    facts = {
        "pipeline": fingerprint(pipeline),
        "prompts": _digest_of_table(table),
        "key": fingerprint(key),
        "devices": f"{jax.device_count()} of {jax.devices()[0].platform}",
    }
    return facts | {name: fingerprint(value) for name, value in options.items()}


def _check_facts(
    facts: Mapping[str, str], found: Checkpoint, allow_changes: bool
) -> None:
    before = found.notes["facts"]
    names = [n for n in {**before, **facts} if before.get(n) != facts.get(n)]
    if not names or allow_changes:
        return
    lines = [f"  {n}: was {before.get(n)}, is {facts.get(n)}" for n in names]
    raise ValueError(
        f"The training in {str(found.folder.parent)!r} must be gone on with as it was "
        "begun; changed since:\n" + "\n".join(lines) + "\nChange it back, choose "
        "another folder, or say `allow_changes=True`."
    )


def _digest_of_table(table: Table) -> str:
    digest = hashlib.sha256()
    for name in sorted(table.names):
        column = table[name]
        digest.update(f"{name}\0".encode())
        if isinstance(column, list):
            digest.update("\0".join(column).encode("utf-8", "surrogatepass"))
        else:
            digest.update(np.ascontiguousarray(column).tobytes())
    return f"{len(table)} rows, {digest.hexdigest()[:16]}"
