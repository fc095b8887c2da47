import equinox as eqx

from ..._checks import check_is, check_whole
from ..._custom_types import WholeLike
from ...episodes import Budget
from ..evaluation import check_diversity, EarlyStopping, Evaluation


class Stopping(eqx.Module):
    """Says when a training is to end before its last step."""

    early_stopping: EarlyStopping | None
    max_budget: Budget | None = eqx.field(static=True)
    max_skipped_steps: int = eqx.field(static=True)

    def __init__(
        self,
        early_stopping: EarlyStopping | None = None,
        max_budget: Budget | None = None,
        max_skipped_steps: WholeLike = 10,
    ):
        """**Arguments:**

        - `early_stopping`: Ends training when the evaluation says that only the reward
            itself still rises, and rolls back to the best; with `patience=None` it
            only does the latter.
        - `max_budget`: Training ends before the step that would exceed one of its
            numbers; those that are 0 are not limited. Evaluations and callbacks are not
            counted, neither as images nor as time.
        - `max_skipped_steps`: How many steps in a row may be not finite; at that many,
            training is given up with a `RewardError`.
        """
        if early_stopping is not None:
            example = "draftx.EarlyStopping(patience=3)"
            check_is("early_stopping", early_stopping, EarlyStopping, example)
        if max_budget is not None:
            check_is("max_budget", max_budget, Budget, "draftx.Budget(seconds=600)")
        if max_budget is not None and not any(max_budget.as_dict().values()):
            raise ValueError(
                "`max_budget` must limit something; got zeros alone. `None` is no "
                "limit."
            )
        max_skipped_steps = check_whole("max_skipped_steps", max_skipped_steps)
        self.early_stopping = early_stopping
        self.max_budget = max_budget
        self.max_skipped_steps = max_skipped_steps

    def check(self, evaluation: Evaluation | None, cost: Budget | None) -> None:
        """Raises unless there is something to judge by, and the budget allows a step.

        **Arguments:**

        - `evaluation`: Of the training.
        - `cost`: Of one step; `None` if it is not known.
        """
        if self.early_stopping is not None and evaluation is None:
            raise ValueError(
                "`early_stopping` must come with an `evaluation` to judge by; got none."
            )
        if self.early_stopping is not None and evaluation is not None:
            least = self.early_stopping.min_diversity
            check_diversity(least, evaluation.measures_diversity())
        if self.max_budget is None:
            return
        limits = {k: v for k, v in self.max_budget.as_dict().items() if v}
        if cost is None and set(limits) != {"seconds"}:
            raise ValueError(
                "`max_budget` must limit seconds alone, since `method` does not say "
                f"what it costs; got {limits}."
            )
        needed = (cost or Budget()).as_dict()
        for name, value in limits.items():
            if needed[name] > value:
                raise ValueError(
                    f"`max_budget` must allow one step, {needed[name]} {name}; got "
                    f"{value}."
                )

    def exceeded(self, spent: Budget, cost: Budget | None) -> str | None:
        """Says why another step would be too much; `None` if it would not.

        **Arguments:**

        - `spent`: Until now.
        - `cost`: Of one step; `None` if it is not known.
        """
        if self.max_budget is None:
            return None
        after = spent + (cost or Budget())
        for name, value in self.max_budget.as_dict().items():
            if value and getattr(after, name) > value:
                return f"another step would exceed the budget of {value} {name}"
        return None
