"""Several processes, each on its own host or not, that compute one thing together."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils


_T = TypeVar("_T")
_VARIABLES: Final = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)


class HostError(RuntimeError):
    """Says that another host could not do its part."""


def join_hosts(timeout: int) -> None:
    """Joins the processes that were started with the same command on other hosts.

    Slurm, Open MPI, Kubernetes and Cloud TPU say which they are; elsewhere the
    environment does: `JAX_COORDINATOR_ADDRESS` (host and port of the first process),
    `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (from 0). Before the first computation.

    **Arguments:**

    - `timeout`: Seconds until the process ends because another has not come, or has
        not been heard of any more.
    """
    address, count, index = _environment()
    given = None not in (address, count, index)
    if not given:
        address = count = index = None
    where = "as this machine's scheduler says"
    if given:
        where = f"as process {index} of {count}, at {address}"

    def give_up() -> None:
        # JAX would end the process with a core dump.
        print(
            f"All processes must come within {timeout} s (`--host-timeout`); joined "
            f"them {where}, and not all have. Start the same command on every host, "
            "look whether the address can be reached from each, and start again.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    watch = threading.Timer(timeout, give_up)
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            address,
            count,
            index,
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=min(timeout, 100),
        )
    except (ValueError, RuntimeError) as e:
        raise ValueError(
            "`distributed` must be known to JAX by a scheduler (Slurm, Open MPI, "
            f"Kubernetes, Cloud TPU) or by {', '.join(_VARIABLES)}, each set; got "
            f"{ {name: os.environ.get(name) for name in _VARIABLES} }: {e}"
        ) from e
    else:
        # Connected now: on a CPU the first collective waits for half a minute alone,
        # and hosts compile at different speeds.
        multihost_utils.sync_global_devices("join_hosts")
    finally:
        watch.cancel()


def _environment() -> tuple[str | None, int | None, int | None]:
    numbers = []
    for name in _VARIABLES[1:]:
        text = os.environ.get(name)
        if text is not None and not (text.isascii() and text.isdigit()):
            raise ValueError(f"{name} must be a whole number; got {text!r}.")
        numbers.append(None if text is None else int(text))
    count, index = numbers
    if count is not None and index is not None and index >= count:
        raise ValueError(
            f"JAX_PROCESS_ID must be below JAX_NUM_PROCESSES, {count}; got {index}."
        )
    address = os.environ.get(_VARIABLES[0])
    if address is not None and not address.rpartition(":")[2].isdigit():
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS must be a host and a port, host:1234; got "
            f"{address!r}."
        )
    return address, count, index


def is_first() -> bool:
    """Whether this is the process that writes what all of them have alike."""
    return jax.process_index() == 0


def are_several() -> bool:
    """Whether there are other processes that compute with this one."""
    return jax.process_count() > 1


def heard_of_all(number: int) -> set[int]:
    """Gathers a number of every process; one that all have alike is alone.

    All of them must ask, and go on when the last has.

    **Arguments:**

    - `number`: At least 0, and below 2**31.
    """
    if not are_several():
        return {number}
    numbers = multihost_utils.process_allgather(np.asarray(number, np.int32))
    return set(np.asarray(numbers).ravel().tolist())


def on_first(action: Callable[[], _T]) -> _T:
    """Does something on the first process; all get what it gives, or its error.

    **Arguments:**

    - `action`: Gives what JSON holds.
    """
    if not are_several():
        return action()
    said, error = None, None
    if is_first():
        try:
            said = {"value": action()}
        except Exception as e:
            error = e
            said = {"error": f"{type(e).__name__}: {e}"}
    heard = _from_first(said)
    if error is not None:
        raise error
    if "error" in heard:
        raise HostError(f"the first process has met an error: {heard['error']}")
    return heard["value"]


def on_each(action: Callable[[], _T]) -> _T:
    """Does something on every process, and goes on only if all could.

    An error of one is raised on all: its own there, a `HostError` on the others.

    **Arguments:**

    - `action`: May give another value on each, which stays there.
    """
    value, error = None, None
    try:
        value = action()
    except Exception as e:
        if not are_several():
            raise
        error = e
    failed = 0 if error is None else 1 + jax.process_index()
    worst = max(heard_of_all(failed))
    if error is not None:
        raise error
    if worst:
        raise HostError(
            f"process {worst - 1} has met an error, which it says itself; this one "
            "ends with it."
        )
    return value  # pyright: ignore[reportReturnType]


def check_alike(what: str, text: str) -> None:
    """Raises on all processes unless they have the same.

    **Arguments:**

    - `what`: That is compared.
    - `text`: What it is here.
    """
    expected = on_first(lambda: text)

    def compare() -> None:
        if text != expected:
            here = [x for x in text.splitlines() if x not in expected.splitlines()]
            there = [x for x in expected.splitlines() if x not in text.splitlines()]
            raise ValueError(
                f"{what} must be the same on all hosts; process {jax.process_index()} "
                f"has {here}, the first has {there}. Start the same command on each."
            )

    on_each(compare)


@contextlib.contextmanager
def said_once():
    """Keeps all processes but the first from printing, as a context."""
    if is_first():
        yield
        return
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            yield


def _from_first(value: Any) -> Any:
    text = json.dumps(value).encode() if is_first() else b""
    broadcast = multihost_utils.broadcast_one_to_all
    size = int(broadcast(np.asarray(len(text), np.int32)))
    sent = np.zeros(size, np.uint8)
    if is_first():
        sent[:] = np.frombuffer(text, np.uint8)
    return json.loads(np.asarray(broadcast(sent)).tobytes())
