import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ...pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """Holds what `finetune` returns.

    - `pipeline`: The tuned pipeline, its adapter in `lora_down` and `lora_up`.
    - `history`: One dictionary of plain numbers for each step.
    - `evaluations`: The figures of each evaluation; `step` is how many steps had been
        taken, 0 at the first.
    - `step`: After how many steps the adapter was as it is in `pipeline`; `None` where
        it is the last.
    - `stopped`: Why training ended before its last step, or `None`.
    """

    pipeline: Pipeline
    history: list[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]] = ()
    step: int | None = None
    stopped: str | None = None


class Kind(NamedTuple):
    """Says what a run is of.

    - `result`: Makes what it gives, as `FinetuneResult` does.
    - `differentiated`: What of the user's has a gradient, in words.
    """

    result: Callable[..., Any]
    differentiated: str


FINETUNING: Final = Kind(FinetuneResult, "`reward`")
