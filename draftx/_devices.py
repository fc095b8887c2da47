import contextlib
import os

import jax


def split_cpu(batch_size: int) -> None:
    """Makes a device of each core of a CPU, as far as a batch can be split over them.

    Small networks are faster on two devices of one core each than on one of two. Call
    it before the first computation; after that, and for other devices, it has no
    effect.

    **Arguments:**

    - `batch_size`: Will be divisible by the number of devices.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    count = max(n for n in range(1, cores + 1) if batch_size % n == 0)
    with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay.
        jax.config.update("jax_num_cpu_devices", count)
