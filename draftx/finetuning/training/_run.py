"""The bookkeeping of a training: rows, evaluations, checkpoints, and its end."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._hosts import heard_of_all, on_first
from ..._planned_memory import PlannedMemory
from ..._signals import StopSignals
from ...episodes import Budget
from ...io.checkpoints import Checkpoint, Checkpoints, from_arrays, to_arrays
from ...rewards import check_finite, RewardError
from ..evaluation import Evaluation
from ._average import averaged
from ._callbacks import Callback, Listeners
from ._optimizer import warn_of_unused_gradients
from ._result import FINETUNING, Kind
from ._rows import moments, prefixed, shortest
from ._stopping import Stopping


class Run:
    """Keeps what has happened in a training until now.

    `stopped` says why it is to end early, once it is; `history` and `evaluations` are
    those of the result.
    """

    def __init__(
        self,
        *,
        whole: Callable[[Any], Any],
        num_train_steps: int,
        evaluation: Evaluation | None,
        stopping: Stopping,
        cost: Budget | None,
        callbacks: Sequence[Callback],
        checkpoints: Checkpoints | None = None,
        facts: Mapping[str, str] | None = None,
        kind: Kind = FINETUNING,
    ):
        """**Arguments:**

        - `whole`: Makes the pipeline, or what else is returned, of what is trained, as
            arrays of its own: those of the state are given up by the next step.
        - `cost`: Of one step, in all but seconds; `None` if it is not known.
        - `num_train_steps`, `evaluation`, `stopping`, `callbacks`, `checkpoints`: As
            for `finetune`.
        - `facts`: What a checkpoint must have in common with the training.
        - `kind`: What is trained.
        """
        self.whole = whole
        self.num_train_steps = num_train_steps
        self.evaluation = evaluation
        self.stopping = stopping
        self.cost = cost
        self.listeners = Listeners(callbacks)
        self.checkpoints = checkpoints
        self.facts = dict(facts or {})
        self.kind = kind
        self.history: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self.spent = Budget()
        self.skipped = self.skipped_in_a_row = 0
        self._best: Any = None  # What early stopping keeps, as NumPy arrays.
        self._best_step: int | None = None

    def train(
        self,
        take_step: Callable[[Any, int], tuple[Any, dict[str, Any]]],
        state: Any,
        plan: Callable[[Any], PlannedMemory | None] | None = None,
    ) -> Any:
        """Takes all the steps, or as many as there are reasons for.

        **Arguments:**

        - `take_step`: From the state and the number of a step to the next state, and
            to the metrics of `record`, which are on the host.
        - `state`: At first. What is trained is its `trainable`, and its `opt_state`
            that of the optimizer.
        - `plan`: Compiles the step, and says how much memory it will need.
        """
        saved = None
        if self.checkpoints is not None:
            saved = self.checkpoints.find(self.facts, self.num_train_steps)
            if saved is not None:
                state = self._restore(saved, state)
        hears = contextlib.nullcontext if self.checkpoints is None else StopSignals
        with hears() as signals:
            try:
                before = None if saved is None else list(self.history)
                self.listeners.begin(self.num_train_steps, before)
                if plan is not None and len(self.history) < self.num_train_steps:
                    self.listeners.working("compiling the training step")
                    self.listeners.planned(plan(state))
                    self.listeners.working("")
                return self._train(take_step, state, signals, plan is None)
            finally:
                self.listeners.end()

    def _train(
        self, take_step, state, signals: StopSignals | None, is_first: bool
    ) -> Any:
        """`is_first`: whether the first step is still to be compiled."""
        if not self.history:
            self.evaluate_if_due(_shown(state))
        for step in range(len(self.history), self.num_train_steps):
            if self.stopped is not None:
                break
            start = time.perf_counter()
            if is_first:
                self.listeners.working("compiling the training step")
            state, metrics = take_step(state, step)
            row = self.record(metrics, time.perf_counter() - start)
            if is_first:
                self.listeners.working("")
                is_first = False
            if self.skipped_in_a_row == self.stopping.max_skipped_steps:
                error = self.error(metrics.get("rewards"))
                whole = self.whole(_shown(state))
                error.result = self.kind.result(whole, self.history, self.evaluations)
                raise error
            self.evaluate_if_due(_shown(state))
            needed = self.listeners.need_pipeline()
            self.listeners.hear(row, self.whole(_shown(state)) if needed else None)
            received = None if signals is None else _of_any_host(signals.received)
            self._save_if_due(state, must=received is not None)
            if received is not None and self.stopped is None:
                self.stopped = received.name
        warn_of_unused_gradients(state.opt_state)
        kept, kept_step = self.kept(_shown(state))
        return self.kind.result(
            kept, self.history, self.evaluations, kept_step, self.stopped
        )

    def _save_if_due(self, state: Any, *, must: bool) -> None:
        if self.checkpoints is None:
            return
        done = len(self.history)
        is_last = done == self.num_train_steps or self.stopped is not None
        if not (must or is_last or done % self.checkpoints.every == 0):
            return
        notes = {
            "facts": self.facts,
            "history": self.history,
            "evaluations": self.evaluations,
            "spent": self.spent.as_dict(),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "stopped": self.stopped,
            "has_best": self._best is not None,
            "best_step": self._best_step,
        }
        self.listeners.working("saving a checkpoint")
        arrays = to_arrays({"state": state, "best": self._best})
        self.checkpoints.open().save(done, arrays, notes)
        self.listeners.working("")

    def _restore(self, saved: Checkpoint, state: Any) -> Any:
        """Takes up the bookkeeping of a checkpoint; gives the state that it holds."""
        notes = saved.notes
        best = state.trainable if notes["has_best"] else None
        like = {"state": state, "best": best}
        tree = from_arrays(like, saved.arrays, str(saved.folder))
        self._best = None if best is None else _on_host(tree["best"])
        if self._best is None and self.stopping.early_stopping is not None:
            raise ValueError(
                "`stopping` must not begin to keep the best adapter in a training that "
                f"goes on: {str(saved.folder)!r} has not kept it. Leave "
                "`early_stopping` out, or begin in another folder."
            )
        self.history = notes["history"]
        self.evaluations = notes["evaluations"]
        self.spent = Budget(**notes["spent"])
        self.skipped = notes["skipped"]
        self.skipped_in_a_row = notes["skipped_in_a_row"]
        self.stopped = notes["stopped"]
        self._best_step = notes.get("best_step")
        return tree["state"]

    def record(self, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Makes a new row, of what a step gave and how long it took.

        `metrics` has `is_finite`, perhaps `rewards`, their `components` by name, and
        `prompts`, and numbers for the row; `seconds` is how long the step took.
        """
        step = len(self.history)
        figures = dict(metrics)
        rewards, prompts = figures.pop("rewards", None), figures.pop("prompts", None)
        of_rewards = {} if rewards is None else moments(rewards)
        for name, scores in figures.pop("components", {}).items():
            of_rewards |= moments(scores, f"/{name}")
        drawn = {} if prompts is None else {"prompts": np.asarray(prompts).tolist()}
        is_finite = bool(figures.pop("is_finite"))
        self.skipped_in_a_row += 1
        if is_finite:
            self.skipped_in_a_row = 0
        self.skipped += self.skipped_in_a_row > 0
        self.spent = self.spent + (self.cost or Budget()) + Budget(seconds=seconds)
        spent = self.spent.as_dict() if self.cost else {"seconds": self.spent.seconds}
        row = {
            "step": step,
            **of_rewards,
            **{name: shortest(value) for name, value in figures.items()},
            "skipped": self.skipped,
            **spent,
            "seconds": round(float(self.spent.seconds), 3),
            **drawn,
        }
        if not self.history and self.evaluations:
            row |= prefixed("before", self.evaluations[0])
        self.history.append(row)
        # Clocks of hosts differ; one decides.
        self.stopped = on_first(lambda: self.stopping.exceeded(self.spent, self.cost))
        return row

    def evaluate_if_due(self, trainable: Any) -> None:
        """Evaluates an adapter before training, now and then, and at the end."""
        if self.evaluation is None:
            return
        done = len(self.history)
        is_last = done == self.num_train_steps or self.stopped is not None
        if done % self.evaluation.every and not is_last:
            return
        found = self.evaluation(self.whole(trainable), self.listeners.measuring)
        figures = on_first(lambda: found)
        self.listeners.working("")
        if self.history:
            self.history[-1] |= prefixed("held_out", figures)
            since = self.evaluations[-1]["step"] if self.evaluations else 0
            rewards = [row["reward"] for row in self.history[since:]]
            rewards = [reward for reward in rewards if math.isfinite(reward)]
            figures["train_reward"] = float(np.mean(rewards)) if rewards else math.nan
        self.evaluations.append({"step": done} | figures)
        early_stopping = self.stopping.early_stopping
        if early_stopping is not None:
            if early_stopping.best(self.evaluations) == len(self.evaluations) - 1:
                self._best, self._best_step = _on_host(trainable), done
            if not is_last:
                self.stopped = early_stopping.reason(self.evaluations)

    def kept(self, trainable: Any) -> tuple[Any, int | None]:
        """Chooses the pipeline to return, and says after how many steps it was.

        The best if there is early stopping, and else the last.
        """
        if self.stopping.early_stopping is None:
            return self.whole(trainable), None
        return self.whole(self._best), self._best_step

    def error(self, rewards: Any) -> RewardError:
        """Makes what to raise after too many steps in a row that were not finite."""
        row, although = self.history[-1], ""
        end = f"{self.skipped_in_a_row} steps in a row, the last {row['step']}"
        if rewards is not None:
            try:
                check_finite(rewards)
            except RewardError as error:
                return RewardError(f"{error} It was so in {end}.")
            although = f", with finite rewards, {np.asarray(rewards).tolist()}"
        return RewardError(
            f"{self.kind.differentiated} must have a finite gradient; got a norm of "
            f"{row['gradient_norm']} in {end}{although}. Look for a square root or a "
            "division at zero."
        )


def _of_any_host(received: signal.Signals | None) -> signal.Signals | None:
    """A signal that one of the hosts has received; all of them then end."""
    number = max(heard_of_all(received or 0))
    return signal.Signals(number) if number else None


def _shown(state: Any) -> Any:
    """What is measured, shown and returned: what is trained, or its average."""
    return averaged(state.opt_state, state.trainable)


def to_default_device(tree: Any) -> Any:
    """Copies arrays off a mesh, so that they mix with arrays of any device.

    **Arguments:**

    - `tree`: Its leaves are arrays.
    """
    return jax.tree.map(lambda x: jnp.array(np.asarray(x), copy=True), tree)


def _on_host(tree: Any) -> Any:
    """As arrays of NumPy, which no later step gives up or overwrites."""
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)
