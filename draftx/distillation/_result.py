import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class DistillationResult:
    """Holds what `distill` returns.

    - `params`: After the last step.
    - `history`: One dictionary of plain numbers for each step.
    - `stopped`: Why it ended before its last step, or `None`.
    """

    params: Any
    history: list[dict[str, Any]]
    stopped: str | None = None


def make_result(
    params: Any,
    history: list[dict[str, Any]],
    evaluations: Sequence[dict[str, Any]] = (),
    step: int | None = None,
    stopped: str | None = None,
) -> DistillationResult:
    """Makes the result of a run, which has no evaluations.

    **Arguments:** those of `draftx.FinetuneResult`.
    """
    del evaluations, step
    return DistillationResult(params, history, stopped)
