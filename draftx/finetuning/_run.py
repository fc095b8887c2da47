"""The bookkeeping of a training: rows, evaluations, and when it is to end."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from .._custom_types import Real
from ..pipeline import Pipeline
from ._budget import Budget
from ._checks import check_finite, RewardError
from ._early_stopping import EarlyStopping
from ._evaluation import Evaluation
from ._result import FinetuneResult


class Run:
    """What has happened in a training until now.

    `stopped` says why it is to end early, once it is; `history` and `evaluations` are
    those of the result.
    """

    def __init__(
        self,
        *,
        whole: Callable[[Any], Pipeline],
        num_train_steps: int,
        max_skipped_steps: int,
        evaluation: Evaluation | None,
        early_stopping: EarlyStopping | None,
        cost: Budget | None,
        max_budget: Budget | None,
        learning_rate: Real | optax.Schedule,
        updates_per_step: int = 1,
        callback: Callable[[dict[str, Any], Pipeline], None] | None = None,
        show_progress: bool = False,
    ):
        """**Arguments:**

        - `whole`: The pipeline with an adapter that is being trained.
        - `cost`: Of one step, in all but seconds; `None` if it is not known.
        - `updates_per_step`: How often the optimizer is called in one.
        - The others are those of `finetune`.
        """
        self.whole = whole
        self.num_train_steps = num_train_steps
        self.max_skipped_steps = max_skipped_steps
        self.evaluation = evaluation
        self.early_stopping = early_stopping
        self.cost = cost
        self.max_budget = max_budget
        self.learning_rate = learning_rate
        self.updates_per_step = updates_per_step
        self.callback = callback
        self.show_progress = show_progress
        self.history: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self.spent = Budget()
        self.skipped = self.skipped_in_a_row = 0
        self._best: Any = None  # Of early stopping: an adapter.

    def train(
        self, take_step: Callable[[Any, int], tuple[Any, dict[str, Any]]], state: Any
    ) -> FinetuneResult:
        """All the steps, or as many as there are reasons for.

        **Arguments:**

        - `take_step`: From the state and the number of a step to the next state, and
            to the metrics of `record`, which are on the host.
        - `state`: At first. It is a tuple that begins with the adapter.
        """
        self.evaluate_if_due(state[0])
        numbers, hide = range(self.num_train_steps), not self.show_progress
        for step in (progress := tqdm(numbers, desc="fine-tuning", disable=hide)):
            start = time.perf_counter()
            state, metrics = take_step(state, step)
            row = self.record(metrics, time.perf_counter() - start)
            if self.skipped_in_a_row == self.max_skipped_steps:
                error = self.error(metrics["rewards"])
                whole = self.whole(state[0])
                error.result = FinetuneResult(whole, self.history, self.evaluations)
                raise error
            self.evaluate_if_due(state[0])
            progress.set_postfix(self.postfix())
            if self.callback is not None:
                self.callback(row, self.whole(state[0]))
            if self.stopped is not None:
                break
        kept, kept_step = self.kept(state[0])
        return FinetuneResult(
            self.whole(kept), self.history, self.evaluations, kept_step, self.stopped
        )

    def record(self, metrics: dict[str, Any], seconds: float) -> dict[str, Any]:
        """A new row, of what a step gave and how long it took.

        `metrics` has `rewards`, `prompts`, `is_finite`, and numbers for the row.
        """
        step = len(self.history)
        figures = dict(metrics)
        rewards = np.asarray(figures.pop("rewards"), np.float64)
        prompts = np.asarray(figures.pop("prompts")).tolist()
        is_finite = bool(figures.pop("is_finite"))
        rate: Any = self.learning_rate
        if callable(rate):  # The optimizer counts the updates that it made.
            rate = rate((step - self.skipped) * self.updates_per_step)
        self.skipped_in_a_row += 1
        if is_finite:
            self.skipped_in_a_row = 0
        self.skipped += self.skipped_in_a_row > 0
        self.spent = self.spent + (self.cost or Budget()) + Budget(seconds=seconds)
        spent = self.spent.as_dict() if self.cost else {"seconds": self.spent.seconds}
        row = {
            "step": step,
            "reward": float(np.mean(rewards)),
            # The deviation of an infinite reward is not worth a warning.
            "reward_std": float(np.std(rewards))
            if np.all(np.isfinite(rewards))
            else math.nan,
            **{name: float(value) for name, value in figures.items()},
            "learning_rate": float(rate),
            "skipped": self.skipped,
            **spent,
            "seconds": round(self.spent.seconds, 3),
            "prompts": prompts,
        }
        if not self.history and self.evaluations:
            row |= _prefixed("before", self.evaluations[0])
        self.history.append(row)
        if self.max_budget is not None:
            self._stop_at(self.max_budget)
        return row

    def _stop_at(self, most: Budget) -> None:
        after = self.spent + (self.cost or Budget())
        for name, value in most.as_dict().items():
            if value and getattr(after, name) > value:
                self.stopped = f"another step would exceed the budget of {value} {name}"

    def evaluate_if_due(self, trainable: Any) -> None:
        """Evaluates an adapter before training, now and then, and at the end."""
        if self.evaluation is None:
            return
        done = len(self.history)
        is_last = done == self.num_train_steps or self.stopped is not None
        if done % self.evaluation.every and not is_last:
            return
        figures = self.evaluation(self.whole(trainable))
        if self.history:
            self.history[-1] |= _prefixed("held_out", figures)
            since = self.evaluations[-1]["step"]
            rewards = [row["reward"] for row in self.history[since:]]
            rewards = [reward for reward in rewards if math.isfinite(reward)]
            figures["train_reward"] = float(np.mean(rewards)) if rewards else math.nan
        self.evaluations.append({"step": done} | figures)
        if self.early_stopping is not None:
            if self.early_stopping.best(self.evaluations) == len(self.evaluations) - 1:
                self._best = trainable
            if not is_last:
                self.stopped = self.early_stopping.reason(self.evaluations)

    def kept(self, trainable: Any) -> tuple[Any, int | None]:
        """The adapter to return, and after how many steps it was: the best if there is
        early stopping, and else the last.
        """
        if self.early_stopping is None:
            return trainable, None
        best = self.early_stopping.best(self.evaluations)
        return self._best, self.evaluations[best]["step"]

    def postfix(self) -> dict[str, str]:
        """What the progress bar shows."""
        shown = {"reward": f"{self.history[-1]['reward']:.4g}"}
        if self.evaluations:
            shown["held_out"] = f"{self.evaluations[-1]['score']:.4g}"
        if self.skipped:
            shown["skipped"] = str(self.skipped)
        return shown

    def error(self, rewards: Any) -> RewardError:
        """What to raise after too many steps in a row that were not finite."""
        row = self.history[-1]
        end = f"{self.skipped_in_a_row} steps in a row, the last {row['step']}"
        try:
            check_finite(rewards)
        except RewardError as error:
            return RewardError(f"{error} It was so in {end}.")
        return RewardError(
            "`reward` must have a finite gradient; got a norm of "
            f"{row['gradient_norm']} in {end}, although the rewards "
            f"{np.asarray(rewards).tolist()} are finite. Look for a square root or a "
            "division at zero."
        )


def check_max_budget(budget: Budget | None, cost: Budget | None) -> None:
    """Raises unless a budget limits something, and allows a step."""
    if budget is None:
        return
    limits = {name: value for name, value in budget.as_dict().items() if value}
    if not limits:
        raise ValueError(
            "`max_budget` must limit something; got zeros alone. `None` is no limit."
        )
    if cost is None and set(limits) != {"seconds"}:
        raise ValueError(
            "`max_budget` must limit seconds alone, since `method` does not say what "
            f"it costs; got {limits}."
        )
    needed = (cost or Budget()).as_dict()
    for name, value in limits.items():
        if needed[name] > value:
            raise ValueError(
                f"`max_budget` must allow one step, {needed[name]} {name}; got {value}."
            )


def to_default_device(tree: Any) -> Any:
    """Off the mesh, so that the result mixes with arrays of any device."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def _prefixed(prefix: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": x for name, x in figures.items() if name != "step"}
