"""Long work without steps: it is heard of while it lasts."""

import time

import pytest

from draftx.runs._busy import Busy


def _wait_for(text, capsys):
    said, end = "", time.monotonic() + 20
    while text not in said and time.monotonic() < end:
        time.sleep(0.005)
        said += capsys.readouterr().err
    assert text in said


def test_it_is_heard_of_while_it_lasts(capsys):
    with Busy("drawing 6 images", "images", every=0.01) as busy:
        assert capsys.readouterr().err.startswith("drawing 6 images ...\n")
        _wait_for("drawing 6 images ... 0", capsys)
        busy.tell(4, 6)
        _wait_for("drawing 6 images ... 4 of 6 images, ", capsys)
    assert capsys.readouterr().err.splitlines()[-1].startswith("drawing 6 images: ")
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_its_end_is_said_once_and_not_of_what_failed(capsys):
    with Busy("checking") as busy:
        busy.stop()
        assert capsys.readouterr().err.startswith("checking ...\nchecking: ")
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyError), Busy("loading"):
        raise KeyError
    assert capsys.readouterr().err == "loading ...\n"
