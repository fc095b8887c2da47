"""Long work that has no steps to count: what is done, and for how long already."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from .._custom_types import Real
from .._ticker import duration, Ticker


class Busy:
    """Says what is being done, as a context: once, then every ten seconds, then how
    long it took."""

    def __init__(self, what: str, parts: str = "", *, every: Real = 10.0):
        """**Arguments:**

        - `what`: In a few words, "loading the model".
        - `parts`: What `tell` counts, "batches".
        - `every`: Seconds between two signs of life.
        """
        self.what = what
        self.parts = parts
        self.every = every
        self._counted = ""
        self._ticker: Ticker | None = None

    def __enter__(self) -> "Busy":
        self._start = time.perf_counter()
        say(f"{self.what} ...")
        self._ticker = Ticker(self.every, self._tick)
        return self

    def tell(self, done: int, total: int) -> None:
        """Notes how many parts are `done`, and how many there are in `total`."""
        self._counted = f"{done} of {total} {self.parts}, "

    def stop(self) -> None:
        """Says how long it took, if that was not said: what follows is other work."""
        if self._end():
            say(f"{self.what}: {self._seconds()}")

    def _tick(self) -> None:
        say(f"{self.what} ... {self._counted}{self._seconds()}")

    def _seconds(self) -> str:
        return duration(time.perf_counter() - self._start)

    def _end(self) -> bool:
        ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.stop()
        return ticker is not None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del value, traceback
        if kind is None:
            self.stop()
        else:
            self._end()


def say(text: str) -> None:
    """Prints a line of `text` about the run."""
    # Above the bars of a download, if there are any.
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()
