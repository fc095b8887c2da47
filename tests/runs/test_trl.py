"""The table for those who come from TRL names flags that there are."""

import pathlib
import re

import pytest

from draftx.runs import main


_PAGE = pathlib.Path(__file__).parents[2] / "examples/coming_from_trl.md"


def test_every_flag_of_the_table_is_one(capsys):
    named = set(re.findall(r"--[a-z][\w.-]*", _PAGE.read_text("utf-8")))
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    known = set(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    assert len(named) > 25
    assert named <= known
