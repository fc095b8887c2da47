"""Which timesteps a chain visits."""

import numpy as np
import pytest

from draftx.diffusion._spacing import spaced_timesteps, whole_timesteps

from ..goldens import make_scheduler
from ..goldens.make_scheduler import SPACINGS
from ..toys import config


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("train", [1000, 250])
def test_timesteps_are_those_of_diffusers_live(train, spacing):
    pytest.importorskip("diffusers")
    changes = dict(timestep_spacing=spacing, num_train_timesteps=train)
    theirs = make_scheduler.scheduler(changes)
    ours = config(**changes)
    for num_steps in [*range(1, train, 7), 61, 103, 122, train - 1]:
        theirs.set_timesteps(num_steps)
        expected = theirs.timesteps.numpy()
        # See `test_every_chain_has_as_many_steps_as_asked`.
        expected = expected[:num_steps] if expected[-1] < 0 else expected
        np.testing.assert_array_equal(whole_timesteps(ours, num_steps), expected)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_chain_has_as_many_steps_as_asked(spacing):
    # diffusers visits a timestep -1 after 61 steps (and 61 other numbers of them) with
    # `trailing`: a stride of 1000 / 61 fits into 1000 once more by rounding.
    spaced = config(timestep_spacing=spacing)
    for num_steps in range(1, 1001):
        timesteps = whole_timesteps(spaced, num_steps)
        assert timesteps.shape == (num_steps,)
        assert timesteps.min() >= 0
        # An offset leads beyond the schedule where all of its timesteps are visited.
        assert timesteps.max() <= (999 if num_steps < 1000 else 1000)
        assert np.all(np.diff(timesteps) < 0)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_fractions_come_from_linspace_alone(spacing):
    spaced = config(timestep_spacing=spacing)
    fractional, whole = spaced_timesteps(spaced, 7), whole_timesteps(spaced, 7)
    assert np.max(np.abs(fractional - whole)) <= 0.5
    assert np.any(fractional != whole) == (spacing == "linspace")
