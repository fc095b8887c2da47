import numpy as np
import pytest

import draftx

from .short import train


def test_advantages_are_of_the_prompt_once_it_is_known():
    method = draftx.DDPO(buffer_size=4, min_count=3)
    before = method.remember(2)
    rows = np.asarray([0, 0, 0, 1])
    rewards = np.asarray([1.0, 2.0, 3.0, 10.0])
    advantages, remembered = method.weigh(before, rows, rewards)
    np.testing.assert_allclose(
        advantages[:3], (rewards[:3] - 2) / rewards[:3].std(), rtol=1e-4
    )
    np.testing.assert_allclose(advantages[3], (10 - 4) / rewards.std(), rtol=1e-4)
    # The latest four of prompt 0: 2, 3, 4, 5.
    two = np.asarray([0, 0]), np.asarray([4.0, 5.0])
    latest, _ = method.weigh(remembered, *two)
    np.testing.assert_allclose(
        latest, np.asarray([0.5, 1.5]) / np.sqrt(1.25), rtol=1e-4
    )
    # What was remembered stays as it was: a round can be weighed again.
    np.testing.assert_array_equal(method.weigh(remembered, *two)[0], latest)
    assert before.counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    "method",
    [
        draftx.DDPO(),
        draftx.DDPO(normalization="batch"),
        draftx.DDPO(buffer_size=4, min_count=2),
        draftx.RewardWeighted(),
    ],
)
def test_one_image_has_nothing_to_be_compared_with(pipeline, method):
    with pytest.raises(ValueError, match="`batch_size` must be at least 2 for .*; got"):
        train(
            pipeline, method, updates=draftx.Updates(), batch_size=1, num_train_steps=1
        )
    draftx.DPG().check_batch(1)


@pytest.mark.parametrize("make", [draftx.DDPO, draftx.RewardWeighted])
def test_one_reward_has_no_statistics(make):
    with pytest.raises(ValueError, match="`buffer_size` must be at least 2"):
        make(normalization="per_prompt", buffer_size=1, min_count=1)
    with pytest.raises(ValueError, match=r"`min_count` must lie in \[2, buffer_size\]"):
        make(normalization="per_prompt", min_count=1)
    make(normalization="batch", buffer_size=1, min_count=1)
