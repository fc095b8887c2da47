from typing import NamedTuple

import equinox as eqx

from ..._checks import check_whole, within
from ..._custom_types import Real, RealLike, WholeLike


class Schedule(NamedTuple):
    """The updates of a round, in numbers that its program is compiled for."""

    batch_size: int
    num_inner_epochs: int
    minibatch_size: int
    steps_per_update: int
    num_trained: int

    @property
    def num_updates(self) -> int:
        """How many there are in a round."""
        parts = self.batch_size // self.minibatch_size
        return self.num_inner_epochs * parts * self.num_trained // self.steps_per_update


class Updates(eqx.Module):
    """Says how a round of samples is divided into updates of the optimizer."""

    num_inner_epochs: int = eqx.field(static=True)
    minibatch_size: int | None = eqx.field(static=True)
    steps_per_update: int | None = eqx.field(static=True)
    step_fraction: Real = eqx.field(static=True)

    def __init__(
        self,
        num_inner_epochs: WholeLike = 1,
        minibatch_size: WholeLike | None = None,
        steps_per_update: WholeLike | None = None,
        step_fraction: RealLike = 1.0,
    ):
        """**Arguments:**

        - `num_inner_epochs`: How often all of the images are learned from.
        - `minibatch_size`: The images of one update; divides the batch. `None`: all.
        - `steps_per_update`: The sampling steps of one update, the same for all of its
            images; divides those that are trained. `None`: all.
        - `step_fraction`: The part of the steps that each epoch trains, drawn at
            random; above 0 and at most 1.
        """
        if minibatch_size is not None:
            minibatch_size = check_whole("minibatch_size", minibatch_size)
        if steps_per_update is not None:
            steps_per_update = check_whole("steps_per_update", steps_per_update)
        self.num_inner_epochs = check_whole("num_inner_epochs", num_inner_epochs)
        self.minibatch_size = minibatch_size
        self.steps_per_update = steps_per_update
        self.step_fraction = within("step_fraction", step_fraction, "(0, 1]")

    def schedule(self, batch_size: int, num_steps: int) -> Schedule:
        """Divides a round, or raises a `ValueError` that says why it cannot be.

        **Arguments:**

        - `batch_size`: The images of the round.
        - `num_steps`: The steps of each that can be trained.
        """
        size = batch_size if self.minibatch_size is None else self.minibatch_size
        check_whole("minibatch_size", size, divides=batch_size)
        trained = max(1, round(self.step_fraction * num_steps))
        length = trained if self.steps_per_update is None else self.steps_per_update
        check_whole("steps_per_update", length, divides=trained)
        return Schedule(batch_size, self.num_inner_epochs, size, length, trained)
