"""The steps of a search, one after the other: shown, saved, and gone on with."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from .._checks import check_is
from .._signals import StopSignals
from ..io.checkpoints import Checkpoints, from_arrays, to_arrays


def _reward(step: int) -> str:
    del step
    return "reward"


class Naming(NamedTuple):
    """Says how a search speaks of itself.

    - `search`: Its name.
    - `argument`: What its user calls the number of steps.
    - `compared`: What the numbers are that a step compared.
    """

    search: str
    argument: str
    compared: Callable[[int], str] = _reward


@dataclasses.dataclass(frozen=True)
class Taken:
    """Holds where a search stands after its steps.

    - `state`: After the last step.
    - `history`: The rewards of each step.
    - `seconds`: That the search took before it went on.
    - `stopped`: The name of the signal that ended the steps, or `None`.
    """

    state: Any
    history: list[np.ndarray]
    seconds: float
    stopped: str | None


def take_steps(
    take_step: Callable[[Any, int], tuple[Any, Float[Array, " batch"]]],
    state: Any,
    num_steps: int,
    naming: Naming,
    *,
    checkpoints: Checkpoints | None,
    facts: Mapping[str, str],
    progress: bool,
    start: float,
) -> Taken:
    """Takes the steps of a search, or those that a signal leaves it the time for.

    **Arguments:**

    - `take_step`: From the state and the number of a step to the next state, and to the
        rewards that the step compared.
    - `state`: At first: arrays, of the shapes that they keep.
    - `num_steps`: How many, of those before an interruption too.
    - `naming`: Of the search.
    - `checkpoints`, `progress`: As for `draftx.search.doodl`.
    - `facts`: What a checkpoint must have in common with the search.
    - `start`: When the search began, by `time.perf_counter`.
    """
    check_is("progress", progress, bool, "True")
    history, seconds, stopped = [], 0.0, None
    found = None
    if checkpoints is not None:
        found = checkpoints.find(facts, num_steps, naming.argument)
    if found is not None:
        state = from_arrays({"state": state}, found.arrays, str(found.folder))["state"]
        history = [np.asarray(row, np.float32) for row in found.notes["history"]]
        seconds = found.notes["seconds"]
    hears = contextlib.nullcontext if checkpoints is None else StopSignals
    bar = tqdm(
        total=num_steps,
        initial=len(history),
        desc=naming.search,
        disable=not progress,
    )
    with hears() as signals, bar:
        for step in range(len(history), num_steps):
            state, rewards = take_step(state, step)
            history.append(np.asarray(rewards))
            figure = f"{naming.compared(step)}={history[-1].mean():.4g}"
            bar.set_postfix_str(figure, refresh=False)
            bar.update()
            received = None if signals is None else signals.received
            if received is not None:
                stopped = received.name
            done = step + 1
            is_due = stopped is not None or done == num_steps
            if checkpoints is not None and (is_due or done % checkpoints.every == 0):
                notes = {
                    "facts": dict(facts),
                    # A float32 is the same after it was a number of JSON.
                    "history": [row.tolist() for row in history],
                    "seconds": seconds + time.perf_counter() - start,
                }
                checkpoints.open().save(done, to_arrays({"state": state}), notes)
            if stopped is not None:
                break
    return Taken(state, history, seconds, stopped)
