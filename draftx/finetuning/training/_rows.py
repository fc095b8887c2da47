"""Numbers of a training as the rows of its history have them."""

import math
from typing import Any

import numpy as np


def moments(rewards: Any, of: str = "") -> dict[str, float]:
    """Computes mean and spread of the rewards of a batch.

    **Arguments:**

    - `rewards`: One for each image.
    - `of`: Ends the names of both.
    """
    values = np.asarray(rewards, np.float64)
    # The deviation of an infinite reward is not worth a warning.
    is_finite = np.all(np.isfinite(values))
    spread = float(np.std(values)) if is_finite else math.nan
    return {f"reward{of}": float(np.mean(values)), f"reward_std{of}": spread}


def prefixed(prefix: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Renames the `figures` of an evaluation, `prefix/name`; its step is left out."""
    return {f"{prefix}/{name}": x for name, x in figures.items() if name != "step"}


def shortest(value: Any) -> float:
    """Writes a `value` in float32 as the shortest decimal that is the same.

    0.0004, not 0.00039999999.
    """
    return float(str(np.float32(value)))
