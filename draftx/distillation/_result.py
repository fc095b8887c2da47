import dataclasses
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
