"""What is seen of a training: a bar at a terminal, lines in a file, never silence."""

import io
import re
import sys
import time

import pytest

import draftx


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _row(step, **more):
    # The first step takes a minute to compile, every other two seconds.
    row = {"step": step, "reward": -1.5, "skipped": 0, "seconds": 60.0 + 2 * step}
    return row | more


def _wait_for(text, stream):
    end = time.monotonic() + 20
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.005)
    assert text in stream.getvalue()


@pytest.fixture
def make(monkeypatch):
    """Makes bars and what they are seen on; ends them, whatever happens."""
    made = []

    def call(stream, **options):
        # Not in a fixture: what stands there is put back before the test.
        monkeypatch.setattr(sys, "stderr", stream)
        made.append(draftx.ProgressBar(**options))
        return made[-1], stream

    yield call
    for bar in made:
        bar.end()


def test_lines_come_while_nothing_happens(make):
    bar, file = make(io.StringIO(), every=0.01)
    bar.begin(4)
    assert file.getvalue().startswith("fine-tuning: 4 steps\n")
    bar.working("compiling the training step")
    _wait_for("s, compiling the training step for ", file)
    bar.working("")
    bar(_row(0, **{"before/score": -1.0}), None)
    _wait_for("1 of 4 steps, reward -1.5, held-out -1, ", file)
    bar(_row(1), None)
    _wait_for("2 of 4 steps, reward -1.5, held-out -1, 4 s left, ", file)
    bar(_row(2), None)
    bar(_row(3, **{"held_out/score": -0.5, "skipped": 1}), None)
    bar.end()
    last = "fine-tuning: 4 of 4 steps, reward -1.5, held-out -0.5, skipped 1, "
    assert file.getvalue().splitlines()[-1].startswith(last)
    length = len(file.getvalue())
    time.sleep(0.05)
    assert len(file.getvalue()) == length
    assert re.fullmatch(r"[ -~\n]*", file.getvalue())


def test_a_file_does_not_fill_up_with_what_is_short(make):
    bar, file = make(io.StringIO())
    bar.begin(100)
    for step in range(100):
        bar.working("saving a checkpoint")
        bar.working("")
        bar(_row(step), None)
    bar.end()
    assert len(file.getvalue().splitlines()) == 2


def test_a_bar_moves_by_itself_and_says_what_is_done(make):
    bar, terminal = make(_Terminal())
    bar.begin(4)
    bar.working("compiling the training step")
    _wait_for("compiling the training step: 0/4", terminal)
    _wait_for("00:01", terminal)
    bar.working("")
    bar(_row(0), None)
    bar(_row(1), None)
    _wait_for("fine-tuning: 2/4", terminal)
    assert "reward -1.5, 4 s left" in terminal.getvalue()
    bar.end()
    assert terminal.getvalue().endswith("\n")


def test_a_bar_goes_on_and_begins_again(make):
    bar, file = make(io.StringIO())
    bar.begin(9)
    bar.resume([_row(step) for step in range(6)])
    bar(_row(6), None)
    bar.end()
    assert "goes on after 6 of 9 steps" in file.getvalue()
    # Not the time of the steps before, which another machine may have taken.
    assert "7 of 9 steps, reward -1.5, " in file.getvalue()
    assert "left" not in file.getvalue()
    bar.begin(2)
    bar.end()
    assert file.getvalue().splitlines()[-1].startswith("fine-tuning: 0 of 2 steps, ")


def test_the_pause_between_lines_is_positive():
    with pytest.raises(ValueError, match="`every` must be"):
        draftx.ProgressBar(every=0)
