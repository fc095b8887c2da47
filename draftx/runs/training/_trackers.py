"""Trackers of experiments that a run reports to, none of which can stop it."""

import abc
import importlib
import math
import os
import pathlib
import threading
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from ...finetuning import AbstractCallback
from ...io.formats import write_text
from ...pipeline import Pipeline
from ..folder import RunFolder


_LOGIN_SECONDS: Final = 60


class AbstractBackend(abc.ABC):
    """What a tracker is told: figures and pictures by the steps taken until then.

    Making one imports what it needs. That and any of its methods may fail; `Tracker`
    sees to it.
    """

    @abc.abstractmethod
    def start(self, folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
        """Begins to report, or goes on.

        **Arguments:**

        - `folder`: Of the run.
        - `config`: Of the run, as a table.
        - `done`: The steps that were taken before; what was reported of later ones is
            void.
        """

    @abc.abstractmethod
    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Reports numbers by their names (`values`) after `step` steps."""

    @abc.abstractmethod
    def picture(self, path: pathlib.Path, step: int) -> None:
        """Reports the grid of samples that is at `path`, of after `step` steps."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Sends what is left; nothing follows."""


class TensorBoard(AbstractBackend):
    """Writes event files into the folder `tensorboard` of the run."""

    def __init__(self):
        self._writers = importlib.import_module("tensorboardX")
        self._images = importlib.import_module("PIL.Image")

    def start(self, folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
        del config
        place = str(folder.path / "tensorboard")
        purge = done + 1 if done else None
        self._writer = self._writers.SummaryWriter(logdir=place, purge_step=purge)

    def figures(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, path: pathlib.Path, step: int) -> None:
        pixels = np.asarray(self._images.open(path).convert("RGB"))
        self._writer.add_image("samples", pixels, step, dataformats="HWC")

    def finish(self) -> None:
        self._writer.close()


class WandB(AbstractBackend):
    """Reports to Weights & Biases; its environment variables may say to which project
    (else `draftx`), account and server."""

    def __init__(self):
        self._module = importlib.import_module("wandb")

    def start(self, folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
        del done  # Steps that are reported again it leaves out: they are the same.
        path = folder.path
        # At a terminal it asks who you are, and nobody may be there to answer.
        settings = self._module.Settings(login_timeout=_LOGIN_SECONDS)
        self._module.setup(settings=settings)
        self._run = self._module.init(
            project=os.environ.get("WANDB_PROJECT", "draftx"),
            name=path.resolve().name,
            id=_identity(path / "wandb-id.txt"),
            dir=str(path),
            config=dict(config),
            resume="allow",
        )

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, path: pathlib.Path, step: int) -> None:
        self._run.log({"samples": self._module.Image(str(path))}, step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio(AbstractBackend):
    """Reports to trackio, which keeps it on this machine unless its environment
    variables name a Space."""

    def __init__(self):
        self._module = importlib.import_module("trackio")

    def start(self, folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
        del done
        path = folder.path
        # Its runs are told apart by their names.
        name = f"{path.resolve().name}-{_identity(path / 'trackio-id.txt')}"
        self._run = self._module.init(
            project="draftx", name=name, config=dict(config), resume="allow"
        )

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, path: pathlib.Path, step: int) -> None:
        self._run.log({"samples": self._module.Image(str(path))}, step=step)

    def finish(self) -> None:
        self._run.finish()


TRACKERS: Final[dict[str, Callable[[], AbstractBackend]]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


class Tracker(AbstractCallback):
    """Reports the figures of each step and evaluation, and the grids of samples.

    Whatever goes wrong with it, from its import on, ends the reporting with a warning,
    and not the run.
    """

    def __init__(
        self,
        name: str,
        folder: RunFolder,
        config: Mapping[str, Any],
        *,
        tell: Callable[[str], None] = lambda what: None,
        patience: float = 60.0,
    ):
        """**Arguments:**

        - `name`: One of `TRACKERS`.
        - `folder`: Of the run. Pictures are those that are in it after a step.
        - `config`: Of the run, as a table.
        - `tell`: Hears what takes long, and an empty text when it is done.
        - `patience`: Seconds that the end of the run waits for what is left to be sent.
        """
        self.name = name
        self.folder = folder
        self.config = config
        self.tell = tell
        self.patience = patience
        self._backend: AbstractBackend | None = None
        self._is_started = False
        self._done = 0

    def needs_pipeline(self) -> bool:
        return False

    def begin(self, num_train_steps: int) -> None:
        del num_train_steps
        self._is_started, self._done = False, 0
        try:
            self._backend = TRACKERS[self.name]()
        except Exception as error:
            self._give_up(error)

    def resume(self, history: list[dict[str, Any]]) -> None:
        self._done = len(history)

    def __call__(self, row: dict[str, Any], pipeline: Pipeline | None) -> None:
        del pipeline
        try:
            self._report(row)
        except Exception as error:
            self._give_up(error)

    def _report(self, row: dict[str, Any]) -> None:
        backend = self._backend
        if backend is None:
            return
        if not self._is_started:
            # Not before a step is taken: until then it is not known how many were.
            self.tell(f"starting {self.name}")
            backend.start(self.folder, self.config, self._done)
            self.tell("")
            self._is_started = True
        before, after = _figures(row)
        step = row["step"] + 1
        if step == 1:
            if before:
                backend.figures(before, 0)
            self._picture(backend, 0)
        backend.figures(after, step)
        self._picture(backend, step)

    def _picture(self, backend: AbstractBackend, step: int) -> None:
        path = self.folder.samples(step)
        if path.is_file():
            backend.picture(path, step)

    def end(self) -> None:
        backend, self._backend = self._backend, None
        if backend is None or not self._is_started:
            return
        errors: list[Exception] = []

        def finish() -> None:
            try:
                backend.finish()
            except Exception as error:
                errors.append(error)

        # Without a connection some would wait for it for ever.
        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        self.tell(f"sending what is left to {self.name}")
        thread.join(self.patience)
        self.tell("")
        if thread.is_alive():
            errors.append(TimeoutError(f"not done within {self.patience:g} s"))
        if errors:
            self._give_up(errors[0])

    def _give_up(self, error: Exception) -> None:
        self._backend = None
        cause = " ".join([f"{type(error).__name__}:", *str(error).split("\n")[:1]])
        remedy = ""
        if isinstance(error, ImportError):
            remedy = f" `pip install 'draftx[{self.name}]'` gets what it needs."
        warnings.warn(
            f"`report_to`: {self.name!r} failed ({cause}) and is told no more; the run "
            f"goes on, and metrics.jsonl in its folder has every figure.{remedy}",
            stacklevel=2,
        )


def check_trackers(names: Sequence[str]) -> None:
    """Raises a `ValueError` unless all `names` are those of trackers."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(
                f"`report_to` must be of {', '.join(TRACKERS)}, or left out for none; "
                f"got {name!r}."
            )


def _figures(row: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of a row: those from before training, and those after its step."""
    before, after = {}, {}
    for name, value in row.items():
        if name == "step" or not isinstance(value, int | float):
            continue
        # What is not finite has no place on a curve.
        if not math.isfinite(value):
            continue
        kind, _, rest = name.partition("/")
        if kind == "before":
            before[f"held_out/{rest}"] = value
        else:
            after[name] = value
    return before, after


def _identity(path: pathlib.Path) -> str:
    """What a run is known by when it goes on: made once, and kept in a file."""
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    return path.read_text("utf-8")
