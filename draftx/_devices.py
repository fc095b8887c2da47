import contextlib
import os

import jax

from ._checks import check_whole
from ._custom_types import WholeLike


_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def split_cpu(batch_size: WholeLike, *, devices: WholeLike | None = None) -> None:
    """Makes a device of each core of a CPU, as far as a batch can be split over them.

    Small networks are faster on two devices of one core each than on one of two. Flags
    that the environment variable `XLA_FLAGS` has already stay as they are.

    Call it before the first computation; after that, and for other devices, it has no
    effect.

    **Arguments:**

    - `batch_size`: Will be divisible by the number of devices.
    - `devices`: How many to make; `None` is one for each core, or fewer.
    """
    batch_size = check_whole("batch_size", batch_size)
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    count = max(n for n in range(1, cores + 1) if batch_size % n == 0)
    if devices is not None:
        count = check_whole("devices", devices)
    with contextlib.suppress(RuntimeError):  # JAX has started: its devices stay.
        jax.config.update("jax_num_cpu_devices", count)
        wanted = [_ONE_THREAD] if count >= cores else []
        given = os.environ.get("XLA_FLAGS", "")
        new = [flag for flag in wanted if flag.partition("=")[0] not in given]
        os.environ["XLA_FLAGS"] = " ".join([given, *new]).strip()
