import numpy as np
import pytest

import draftx
from draftx.finetuning.rounds._advantages import AdvantageNormalizer

from .short import train


def test_advantages_are_of_the_prompt_once_it_is_known():
    normalize = AdvantageNormalizer("per_prompt", buffer_size=4, min_count=3)
    rows = np.asarray([0, 0, 0, 1])
    rewards = np.asarray([1.0, 2.0, 3.0, 10.0])
    advantages = normalize(rows, rewards)
    np.testing.assert_allclose(
        advantages[:3], (rewards[:3] - 2) / rewards[:3].std(), rtol=1e-4
    )
    np.testing.assert_allclose(advantages[3], (10 - 4) / rewards.std(), rtol=1e-4)
    # The latest four of prompt 0: 2, 3, 4, 5.
    latest = normalize(np.asarray([0, 0]), np.asarray([4.0, 5.0]))
    np.testing.assert_allclose(
        latest, np.asarray([0.5, 1.5]) / np.sqrt(1.25), rtol=1e-4
    )


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
