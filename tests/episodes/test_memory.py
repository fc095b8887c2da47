import pytest

from draftx import Memory
from draftx.layers import Remat


def test_words_are_tiers():
    assert Memory().remat is Remat.AUTO
    assert Memory("block").remat is Remat.BLOCK
    assert Memory(Remat.NESTED).remat is Remat.NESTED
    assert Memory("none", 2) == Memory(Remat.NONE, images_at_once=2)
    assert hash(Memory("none", 2)) == hash(Memory("none", 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Memory("steps"), "`remat` must be one of 'auto', .*; got 'steps'"),
        (lambda: Memory(images_at_once=0), "`images_at_once` must be .*; got 0"),
        (lambda: Memory(images_at_once=True), "`images_at_once` must be .*; got True"),
        (lambda: Memory(images_at_once=3).check(4), "divides the batch, 4; got 3"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_divides_the_batch_is_fine():
    Memory().check(3)
    Memory(images_at_once=2).check(4)
