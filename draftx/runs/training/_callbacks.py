"""What a run writes down while it trains: figures of each step, and pictures."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from ..._hosts import is_first
from ..._mesh import to_host
from ..._table import Rows, Table
from ...finetuning import AbstractCallback
from ...lora import scale_lora
from ...pipeline import Pipeline, sample_rows, Sampling
from .._busy import Busy
from ..folder import append_line, captioned_grid, RunFolder, write_lines


class Begun(AbstractCallback):
    """Ends what was said to be done until then when a training begins."""

    def __init__(self, busy: Busy):
        """**Arguments:**

        - `busy`: Says it.
        """
        self.busy = busy

    def needs_pipeline(self) -> bool:
        return False

    def begin(self, num_train_steps: int) -> None:
        del num_train_steps
        self.busy.stop()

    def __call__(self, row: dict[str, Any], pipeline: Pipeline | None) -> None:
        del row, pipeline


class MetricsFile(AbstractCallback):
    """Writes a line for each step, and takes lines back that are to be made again."""

    def __init__(self, folder: RunFolder, batch_size: int):
        """**Arguments:**

        - `folder`: Of the run.
        - `batch_size`: Images of a step.
        """
        self.folder = folder
        self.batch_size = batch_size
        self._seconds = 0.0

    def needs_pipeline(self) -> bool:
        return False

    def begin(self, num_train_steps: int) -> None:
        del num_train_steps
        self.resume([])

    def resume(self, history: list[dict[str, Any]]) -> None:
        self._seconds = 0.0
        write_lines(self.folder.metrics, [self._row(row) for row in history])

    def __call__(self, row: dict[str, Any], pipeline: Pipeline | None) -> None:
        del pipeline
        append_line(self.folder.metrics, self._row(row))

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        spent = row["seconds"] - self._seconds
        self._seconds = row["seconds"]
        rate = self.batch_size / spent if spent > 0 else None
        return row | {"images_per_second": rate}


class Samples(AbstractCallback):
    """Draws the same prompts from the same noise every so many steps.

    Base beside tuned, as `samples/step-N.png`; also before the first step.
    """

    def __init__(
        self,
        folder: RunFolder,
        prompts: Rows,
        sampling: Sampling,
        key: Array,
        *,
        every: int,
        images_at_once: int,
        tell: Callable[[str], None],
    ):
        """**Arguments:**

        - `folder`: Of the run.
        - `prompts`, `sampling`, `key`: What is drawn, and how.
        - `every`: After so many steps.
        - `images_at_once`: As for `draftx.sample`.
        - `tell`: Hears that it is drawn, and an empty text when it is.
        """
        self.folder = folder
        self.table = Table.of(prompts)
        self.sampling = sampling
        self.key = key
        self.every = every
        self.images_at_once = images_at_once
        self.tell = tell
        self._base: np.ndarray | None = None
        self._last = 0

    def draw(
        self,
        pipeline: Pipeline,
        step: int,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        """Draws with a pipeline, as it is after a step.

        **Arguments:**

        - `pipeline`: The tuned one; the base is what is left without its adapter.
        - `step`: How many steps were taken.
        - `tell`: As for `images`.
        """
        # The same program as with the adapter.
        base = scale_lora(pipeline, 0)
        if self._base is None:
            self._base = self.images(base, tell)
        is_new = step == 0 and _is_equal(pipeline, base)
        tuned = self._base if is_new else self.images(pipeline, tell)
        rows = {"base": self._base, f"step {step}": tuned}
        if is_first():
            captioned_grid(self.folder.samples(step), rows, self.table.prompts)

    def images(
        self, pipeline: Pipeline, tell: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Draws the prompts, and writes nothing.

        **Arguments:**

        - `pipeline`: Draws them.
        - `tell`: As for `draftx.sample`; `None` tells who listens to the training.
        """
        # As the evaluation does, which needs no other program if it has as many rows.
        images = sample_rows(
            pipeline,
            self.table,
            self.sampling,
            key=self.key,
            images_at_once=self.images_at_once,
            tell=tell or self._tell,
            on_all=True,
        )
        return np.asarray(images)

    def _tell(self, done: int, total: int) -> None:
        self.tell(f"drawing samples, {done} of {total} images")

    def begin(self, num_train_steps: int) -> None:
        self._last = num_train_steps

    def __call__(self, row: dict[str, Any], pipeline: Pipeline | None) -> None:
        step = row["step"] + 1
        if pipeline is not None and (step % self.every == 0 or step == self._last):
            self.draw(pipeline, step)
            self.tell("")


def _is_equal(*pipelines: Pipeline) -> bool:
    # On the host: nothing is compiled for each shape.
    leaves = [jax.tree.leaves(to_host(pipeline)) for pipeline in pipelines]
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
