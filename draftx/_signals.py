"""Ctrl-C, SIGTERM and SIGUSR1 as a wish to end soon; said twice, as an order."""

import os
import signal
import socket
import sys
import threading
from typing import Final


# The codes that a shell gives to a process ended by these signals. The last is how
# schedulers of clusters say that the time is nearly up; not every system has it.
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGUSR1")
EXIT_CODES: Final = {
    number: 128 + number
    for name in _NAMES
    if (number := getattr(signal, name, None)) is not None
}


class StopSignals:
    """Hears SIGINT, SIGTERM and SIGUSR1, as a context: the first is kept, the second
    ends all.

    `received` is the first signal, or `None`: whoever works looks at it when it can be
    left off. It is heard in the midst of a compilation too, which Python itself is not
    told of before its end. The second signal ends the process at once, with the code of
    `EXIT_CODES`.

    In another thread than the main one, which signals do not reach, nothing is heard.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self
        # The interpreter writes the number of a signal there as it comes; the handlers
        # themselves would run only when the main thread is back in Python.
        ours, theirs = self._pair = socket.socketpair()
        theirs.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for name in EXIT_CODES:
            self._before[name] = signal.signal(name, lambda number, frame: None)
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        return self

    def _listen(self, ours: socket.socket) -> None:
        while data := ours.recv(1):
            if data[0] not in EXIT_CODES:
                continue
            number = signal.Signals(data[0])
            if self.received is not None:
                os._exit(EXIT_CODES[number])
            self.received = number
            print(
                f"\n{number.name}: the step is finished and saved, then this ends. "
                "Once more to end at once.",
                file=sys.stderr,
                flush=True,
            )
        ours.close()

    def __exit__(self, *error: object) -> None:
        del error
        if self._pair is None:
            return
        for name, before in self._before.items():
            signal.signal(name, before)  # pyright: ignore[reportArgumentType]
        signal.set_wakeup_fd(self._wakeup)
        # The listener reads the end of the other side, and closes its own.
        self._pair[1].close()
        self._pair = None
