"""What the processes of one training, on one host or on many, tell each other."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this is the process that writes what all of them have alike."""
    return jax.process_index() == 0


def heard_of_all(number: int) -> set[int]:
    """Gathers a number of every process; one that all have alike is alone.

    All of them must ask, and go on when the last has.

    **Arguments:**

    - `number`: At least 0, and below 2**31.
    """
    if jax.process_count() == 1:
        return {number}
    numbers = multihost_utils.process_allgather(np.asarray(number, np.int32))
    return set(np.asarray(numbers).ravel().tolist())
