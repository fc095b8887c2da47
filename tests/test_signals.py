"""The first signal is a wish, the second an order, in the midst of C code too."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from draftx._signals import EXIT_CODES, StopSignals


def _wait_for(condition):
    end = time.perf_counter() + 5
    while not condition():
        assert time.perf_counter() < end
        time.sleep(0.01)


@pytest.fixture
def ctrl_c_is_heard():
    # A shell starts what is in its background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
@pytest.mark.parametrize("number", EXIT_CODES)
def test_the_first_is_kept_and_the_handlers_come_back(number, capfd):
    before = [signal.getsignal(n) for n in EXIT_CODES]
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        _wait_for(lambda: stop.received is not None)
        assert stop.received == number
    assert [signal.getsignal(n) for n in EXIT_CODES] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert f"{number.name}: the step is finished and saved" in capfd.readouterr().err
    # Once left, Ctrl-C is what it was.
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_other_threads_may_use_it_and_hear_nothing():
    heard = []

    def work():
        with StopSignals() as stop:
            heard.append(stop.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [None]


# A call that keeps the main thread out of Python, as a compilation does.
_BUSY = """
import hashlib
from draftx._signals import StopSignals
with StopSignals():
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000_000)
"""


@pytest.mark.parametrize("number", EXIT_CODES)
def test_the_second_ends_at_once_where_python_is_not_asked(number):
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "busy\n"
        process.send_signal(number)
        assert process.stderr.readline() == "\n"
        assert number.name in process.stderr.readline()
        start = time.perf_counter()
        process.send_signal(number)
        assert process.wait(10) == EXIT_CODES[number]
        assert time.perf_counter() - start < 2
