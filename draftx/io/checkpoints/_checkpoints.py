"""Where a training or a search is saved, and from where it goes on."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from ..._checks import check_is, check_whole, is_whole, plain
from ._abstract import AbstractCheckpointStore, Checkpoint, numbered
from ._facts import check_facts
from ._orbax import import_orbax, OrbaxStore
from ._store import CheckpointStore


# Called with a folder, and by name with `total_limit` and `permanent_every`.
StoreMaker: TypeAlias = Callable[..., AbstractCheckpointStore]
_STORES: Final = {"safetensors": CheckpointStore, "orbax": OrbaxStore}


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Says where and when a training or a search is saved, and whether to go on.

    One that is called again with the same arguments goes on from the newest checkpoint
    that is whole, and gives what it would have given without the interruption, bit for
    bit; times excepted. It may have more steps than before.

    Between steps, the first Ctrl-C, SIGTERM or SIGUSR1 saves and ends it, and its
    result then says so in `stopped`; the second ends the process. Of several hosts it
    is enough that one receives it.

    **Arguments:**

    - `folder`: For the checkpoints of one training, or of one search.
    - `every`: Saves after every so many steps, and at the end.
    - `total_limit`: How many checkpoints are kept, the newest; `None` is all.
    - `permanent_every`: Those of every so many steps are kept besides; `None` is none.
    - `resume`: `True` goes on from the newest; `False` is an error if there is any; a
        whole number goes on from that step's.
    - `allow_changes`: Whether to go on with other options than it was begun with.
    - `store`: What writes them: "safetensors" and JSON, or "orbax", which needs
        `pip install 'draftx[orbax]'` and is for arrays that are split over several
        hosts. In Python also what makes a store of one's own, a
        `draftx.io.checkpoints.AbstractCheckpointStore`.
    """

    folder: str | os.PathLike
    every: int = 50
    total_limit: int | None = 3
    permanent_every: int | None = None
    resume: bool | int = True
    allow_changes: bool = False
    store: Literal["safetensors", "orbax"] | StoreMaker = "safetensors"

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
        check_is("allow_changes", self.allow_changes, bool, "True")
        if not callable(self.store) and self.store not in _STORES:
            raise ValueError(
                f"`store` must be one of {list(_STORES)}, or make a store of a folder; "
                f"got {self.store!r}."
            )
        if self.store == "orbax":
            import_orbax()

    def open(self) -> AbstractCheckpointStore:
        """Makes the folder, if need be, and finds what is in it."""
        make = self.store if callable(self.store) else _STORES[self.store]
        return make(
            self.folder,
            total_limit=self.total_limit,
            permanent_every=self.permanent_every,
        )

    def begun_with(self) -> Mapping[str, str]:
        """Reads what the training or search that is to go on was begun with.

        **Returns:**

        As `describe` gave it; nothing where there is nothing to go on from.
        """
        is_ours = isinstance(self.store, str)
        if self.resume is False or (is_ours and not saved_steps(self.folder)):
            return {}
        store = self.open()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `find` says which are damaged.
            found = store.newest() if self.resume is True else store.read(self.resume)
        return {} if found is None else found.notes.get("facts", {})

    def find(
        self,
        facts: Mapping[str, str],
        num_steps: int,
        argument: str = "num_train_steps",
    ) -> Checkpoint | None:
        """Reads the checkpoint to go on from; `None` if there is none yet.

        **Arguments:**

        - `facts`: What the training or search is made of, from `describe`.
        - `num_steps`: That it has.
        - `argument`: What its user calls them.

        Raises a `ValueError` that shows what was changed since.
        """
        others = saved_steps(self.folder)
        if isinstance(self.store, str) and others and self.store not in others:
            name, steps = next(iter(others.items()))
            raise ValueError(
                f"`store` must be {name!r} for {str(self.folder)!r}, which has its "
                f"checkpoints of steps {steps}; got {self.store!r}. Change it, or "
                "choose another folder."
            )
        store = self.open()
        if self.resume is False:
            if store.steps():
                raise ValueError(
                    "`folder` must have no checkpoints for what is not to go on from "
                    f"one; {str(self.folder)!r} has those of steps {store.steps()}. "
                    "Choose another folder, or `resume=True`."
                )
            return None
        found = store.newest() if self.resume is True else store.read(self.resume)
        if found is None:
            return None
        check_facts(facts, found, self.allow_changes)
        if found.step > num_steps:
            raise ValueError(
                f"`{argument}` must be at least {found.step}, the steps that "
                f"{str(found.folder)!r} has taken; got {num_steps}."
            )
        return found


def check_checkpoints(checkpoints: Any) -> None:
    """Raises unless `checkpoints` is a `Checkpoints` or `None`."""
    if checkpoints is not None:
        example = 'draftx.Checkpoints("run/checkpoints")'
        check_is("checkpoints", checkpoints, Checkpoints, example)


def saved_steps(folder: str | os.PathLike) -> dict[str, list[int]]:
    """Lists the steps that have a checkpoint in a folder, by the store that wrote them.

    **Arguments:**

    - `folder`: Of checkpoints; it may be missing.
    """
    found = {
        name: numbered(pathlib.Path(folder), store.pattern)
        for name, store in _STORES.items()
    }
    return {name: steps for name, steps in found.items() if steps}
