"""What is told of every step of a training: progress bars, files, images."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tqdm import tqdm

from ...pipeline import Pipeline


class AbstractCallback(abc.ABC):
    """Is told of a training: before its first step, after every one, and at its end."""

    def begin(self, num_train_steps: int) -> None:
        """Hears how many steps there will be at most; nothing, unless overridden."""
        del num_train_steps

    def resume(self, history: list[dict[str, Any]]) -> None:
        """Hears, after `begin`, that a saved training goes on after these rows.

        It had been told of them before, and perhaps of later ones, which are lost and
        will be taken again. Nothing, unless overridden.
        """
        del history

    def needs_pipeline(self) -> bool:
        """Says whether to be given the pipeline, which is a copy of the adapter.

        Unless overridden, it is.
        """
        return True

    @abc.abstractmethod
    def __call__(self, row: dict[str, Any], pipeline: Pipeline | None) -> None:
        """Hears of a step.

        **Arguments:**

        - `row`: Of the history. What an evaluation found is in it.
        - `pipeline`: As it is then; it stays usable. `None` if no callback needs it.
        """

    def end(self) -> None:
        """Hears that no step follows, for any reason; nothing, unless overridden."""
        return


# What `finetune` takes: an `AbstractCallback`, or a function of a row and a pipeline.
Callback: TypeAlias = Callable[[dict[str, Any], Any], None]


class ProgressBar(AbstractCallback):
    """Shows a bar with the reward and the latest held-out score."""

    def __init__(self):
        self._bar = None
        self._shown: dict[str, str] = {}

    def begin(self, num_train_steps: int) -> None:
        self._bar = tqdm(total=num_train_steps, desc="fine-tuning")
        self._shown = {}

    def resume(self, history: list[dict[str, Any]]) -> None:
        if self._bar is not None:
            # What was done before does not count for the time that is left.
            self._bar.initial = self._bar.n = len(history)
            self._bar.refresh()

    def needs_pipeline(self) -> bool:
        return False

    def __call__(self, row: dict[str, Any], pipeline: Pipeline | None) -> None:
        del pipeline
        self._shown["reward"] = f"{row['reward']:.4g}"
        for name in ("before/score", "held_out/score"):
            if name in row:
                self._shown["held_out"] = f"{row[name]:.4g}"
        if row["skipped"]:
            self._shown["skipped"] = str(row["skipped"])
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)
            self._bar.update()

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()


def check_callbacks(callbacks: Any) -> None:
    """Raises unless `callbacks` are functions of a row and a pipeline, or none."""
    is_several = isinstance(callbacks, Sequence) and not isinstance(callbacks, str)
    if not is_several or not all(map(callable, callbacks)):
        raise ValueError(
            "`callbacks` must be a tuple of functions of a row and a pipeline, `()` "
            f"for none; got {callbacks!r}."
        )
