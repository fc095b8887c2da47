"""Long work that has no steps to count: what is done, and for how long already."""

import sys
import threading
import time
from types import TracebackType


class Busy:
    """Says what is being done, as a context: once, then every ten seconds, then how
    long it took."""

    def __init__(self, what: str, *, every: float = 10.0):
        """**Arguments:**

        - `what`: In a few words, "compiling the training step".
        - `every`: Seconds between two signs of life.
        """
        self.what = what
        self.every = every
        self._done = threading.Event()

    def __enter__(self) -> "Busy":
        self._start = time.perf_counter()
        print(f"{self.what} ...", file=sys.stderr, flush=True)
        threading.Thread(target=self._tick, daemon=True).start()
        return self

    def _tick(self) -> None:
        while not self._done.wait(self.every):
            print(f"{self.what} ... {self._seconds()}", file=sys.stderr, flush=True)

    def _seconds(self) -> str:
        return f"{time.perf_counter() - self._start:.0f} s"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        del value, traceback
        if kind is None:
            print(f"{self.what}: {self._seconds()}", file=sys.stderr, flush=True)
