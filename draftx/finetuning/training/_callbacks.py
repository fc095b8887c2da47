"""What is told of every step of a training: progress bars, files, images."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from ..._planned_memory import PlannedMemory, warn_if_too_much


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

    def working(self, what: str) -> None:
        """Hears what is done now besides steps; nothing, unless overridden.

        **Arguments:**

        - `what`: Such as "compiling the training step"; empty when steps go on.
        """
        del what

    def note(self, fact: str) -> None:
        """Hears something about the training, in a line; nothing, unless overridden.

        **Arguments:**

        - `fact`: Such as how much memory it will need.
        """
        del fact

    @abc.abstractmethod
    def __call__(self, row: dict[str, Any], pipeline: Any) -> None:
        """Hears of a step.

        **Arguments:**

        - `row`: Of the history. What an evaluation found is in it.
        - `pipeline`: As it is then, or what else is optimized; it stays usable. `None`
            if no callback needs it.
        """

    def end(self) -> None:
        """Hears that no step follows, for any reason; nothing, unless overridden."""
        return


MEMORY_REMEDY: Final = (
    "In this order: `remat` 'step' or 'nested' computes more again in the backward "
    "pass; `images_at_once` 1 decodes and scores one image at a time; a model in "
    "bfloat16, its `dtype`, is half as large; a smaller batch, `height` or `width`."
)

# What `finetune` takes: an `AbstractCallback`, or a function of a row and a pipeline.
Callback: TypeAlias = Callable[[dict[str, Any], Any], None]


class Listeners:
    """Tells all callbacks of a training what each of them hears."""

    def __init__(self, callbacks: Sequence[Callback]):
        """**Arguments:**

        - `callbacks`: As for `finetune`.
        """
        self.callbacks = callbacks
        self._told = [c for c in callbacks if isinstance(c, AbstractCallback)]
        self._has_measured = False

    def begin(self, num_train_steps: int, saved: list[dict[str, Any]] | None) -> None:
        """Says that training begins, or goes on.

        **Arguments:**

        - `num_train_steps`: The steps, at most.
        - `saved`: The rows of a training that goes on.
        """
        for callback in self._told:
            callback.begin(num_train_steps)
            if saved is not None:
                callback.resume(saved)

    def working(self, what: str) -> None:
        """Says `what` is done besides steps; that steps go on if it is empty."""
        for callback in self._told:
            callback.working(what)

    def note(self, fact: str) -> None:
        """Says a `fact` about the training."""
        for callback in self._told:
            callback.note(fact)

    def planned(self, plan: PlannedMemory | None) -> None:
        """Says how much memory a step needs by its `plan`; `None` is not known."""
        if plan is not None:
            self.note(str(plan))
            warn_if_too_much(plan, "A training step", MEMORY_REMEDY)

    def measuring(self, done: int, total: int) -> None:
        """Says that an evaluation has `done` batches of a `total`."""
        if done == 0 and not self._has_measured:
            self._has_measured = True
            self.working("compiling the evaluation")
        else:
            self.working(f"measuring held-out prompts, {done} of {total} batches")

    def need_pipeline(self) -> bool:
        """Says whether one of them wants the pipeline with each row."""
        return any(
            not isinstance(callback, AbstractCallback) or callback.needs_pipeline()
            for callback in self.callbacks
        )

    def hear(self, row: dict[str, Any], pipeline: Any) -> None:
        """Says that a step was taken; `row` and `pipeline` as for each of them."""
        for callback in self.callbacks:
            callback(row, pipeline)

    def end(self) -> None:
        """Says that no step follows."""
        for callback in self._told:
            callback.end()


def check_callbacks(callbacks: Any) -> None:
    """Raises unless `callbacks` are functions of a row and a pipeline, or none."""
    is_several = isinstance(callbacks, Sequence) and not isinstance(callbacks, str)
    if not is_several or not all(map(callable, callbacks)):
        raise ValueError(
            "`callbacks` must be a tuple of functions of a row and a pipeline, `()` "
            f"for none; got {callbacks!r}."
        )
