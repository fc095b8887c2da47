"""Signs of life of long work: how long it lasts, said now and then."""

import threading
from collections.abc import Callable

from ._custom_types import Real


class Ticker:
    """Calls a function every so many seconds, from a thread, until it is stopped."""

    def __init__(self, every: Real, call: Callable[[], None]):
        """**Arguments:**

        - `every`: Seconds between two calls; the first is after as many.
        - `call`: What is called.
        """
        self._every = every
        self._call = call
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            self._call()

    def stop(self) -> None:
        """Ends the calls: none follows this one."""
        self._stopped.set()
        self._thread.join()


def duration(seconds: float) -> str:
    """Writes `seconds` as people say them: 46 s, 2 min 5 s, 3 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
