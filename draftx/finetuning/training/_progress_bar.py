"""What a person at a training sees of it: how far it is, and what is done just now."""

import sys
import time
from typing import Any

from tqdm import tqdm

from ..._checks import positive
from ..._custom_types import RealLike
from ..._ticker import duration, Ticker
from ._callbacks import AbstractCallback


class ProgressBar(AbstractCallback):
    """Shows the steps, the reward, the held-out score, and what is done meanwhile.

    At a terminal that is a bar, which moves every second; elsewhere a line now and
    then, of which a file can be made.
    """

    def __init__(self, *, every: RealLike = 10.0, name: str = "fine-tuning"):
        """**Arguments:**

        - `every`: Seconds between two lines, where there is no terminal.
        - `name`: What is done, at the beginning of the bar or of every line.
        """
        self.name = name
        self.every = positive("every", every)
        self._bar: Any = None
        self._ticker: Ticker | None = None
        self._forget(0)

    def _forget(self, total: int) -> None:
        self._total, self._done = total, 0
        self._shown: dict[str, str] = {}
        self._work = ""
        self._start = self._since = time.perf_counter()
        # Of the steps of this process; its first one includes the compilation.
        self._first: tuple[int, float] | None = None
        self._seconds = 0.0

    def begin(self, num_train_steps: int) -> None:
        self.end()
        self._forget(num_train_steps)
        if _is_live(sys.stderr):
            self._bar = tqdm(
                total=num_train_steps,
                desc=self.name,
                bar_format="{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}",
                dynamic_ncols=True,
            )
            self._ticker = Ticker(1.0, self._refresh)
        else:
            self._print(f"{num_train_steps} steps")
            self._ticker = Ticker(self.every, self._line)

    def resume(self, history: list[dict[str, Any]]) -> None:
        self._done = len(history)
        if self._bar is None:
            self._print(f"goes on after {self._done} of {self._total} steps")
        self._refresh()

    def needs_pipeline(self) -> bool:
        return False

    def working(self, what: str) -> None:
        self._work, self._since = what, time.perf_counter()
        self._refresh()

    def note(self, fact: str) -> None:
        if self._bar is None:
            self._print(fact)
        else:
            self._bar.write(fact, file=sys.stderr)

    def __call__(self, row: dict[str, Any], pipeline: Any) -> None:
        del pipeline
        self._done = row["step"] + 1
        self._seconds = row["seconds"]
        if self._first is None:
            self._first = self._done, self._seconds
        if "reward" in row:
            self._shown["reward"] = f"{row['reward']:.4g}"
        for name in ("before/score", "held_out/score"):
            if name in row:
                self._shown["held-out"] = f"{row[name]:.4g}"
        if row["skipped"]:
            self._shown["skipped"] = str(row["skipped"])
        self._refresh()

    def end(self) -> None:
        if self._ticker is None:
            return
        self._ticker.stop()
        self._ticker, self._work = None, ""
        if self._bar is None:
            self._line()
        else:
            self._refresh()
            self._bar.close()
            self._bar = None

    def _refresh(self) -> None:
        if self._bar is not None:
            self._bar.n = self._done
            self._bar.set_description_str(self._work or self.name, refresh=False)
            self._bar.set_postfix_str(", ".join(self._facts()), refresh=False)
            self._bar.refresh()

    def _line(self) -> None:
        now = time.perf_counter()
        parts = [f"{self._done} of {self._total} steps", *self._facts()]
        parts.append(duration(now - self._start))
        if self._work:
            parts.append(f"{self._work} for {duration(now - self._since)}")
        self._print(", ".join(parts))

    def _facts(self) -> list[str]:
        facts = [f"{name} {value}" for name, value in self._shown.items()]
        if self._first is not None and self._done > self._first[0]:
            taken = self._seconds - self._first[1]
            each = taken / (self._done - self._first[0])
            left = self._total - self._done
            facts += [f"{duration(each * left)} left"] if left else []
        return facts

    def _print(self, text: str) -> None:
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)


def _is_live(stream: Any) -> bool:
    """Whether a line that is there can be written over: a terminal, a notebook."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")
