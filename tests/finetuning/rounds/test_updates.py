import pytest

from draftx import Updates


def test_a_round_is_divided():
    schedule = Updates().schedule(4, 3)
    assert (schedule.minibatch_size, schedule.steps_per_update) == (4, 3)
    assert schedule.num_updates == 1
    assert Updates(2, 2, 1).schedule(4, 3).num_updates == 2 * 2 * 3
    half = Updates(step_fraction=0.5, steps_per_update=2).schedule(4, 8)
    assert (half.num_trained, half.num_updates) == (4, 2)
    assert Updates(step_fraction=0.01).schedule(4, 8).num_trained == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Updates(0), "`num_inner_epochs` must be a whole number"),
        (lambda: Updates(minibatch_size=0), "`minibatch_size` must be a whole number"),
        (lambda: Updates(steps_per_update=0), "`steps_per_update` must be a whole"),
        (lambda: Updates(step_fraction=0.0), r"`step_fraction` must lie in \(0, 1\]"),
        (lambda: Updates(step_fraction=1.5), r"`step_fraction` must lie in \(0, 1\]"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
