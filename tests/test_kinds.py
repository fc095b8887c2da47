"""What an argument of another kind is told."""

from typing import NamedTuple

import pytest

import draftx
from draftx._checks import check_is


class _Found(NamedTuple):
    sampling: draftx.Sampling
    images: list


def _told(value):
    with pytest.raises(ValueError, match="`sampling` must be a Sampling") as error:
        check_is("sampling", value, draftx.Sampling, "draftx.Sampling(20)")
    return str(error.value)


def test_of_a_result_the_part_that_is_meant_is_named():
    assert _told(_Found(draftx.Sampling(3), [])).endswith(" Give its `.sampling`.")
    assert "Give its" not in _told(3)


def test_a_long_one_is_not_repeated_whole():
    assert _told(3).endswith("got 3.")
    assert _told(list(range(1000))).endswith("got an object of list.")
