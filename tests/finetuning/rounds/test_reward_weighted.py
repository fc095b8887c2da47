import numpy as np
import pytest

import draftx

from .short import JPEG, train, UPDATES


def test_reward_weighted_regression_descends_its_loss(pipeline):
    method = draftx.RewardWeighted(temperature=0.5)
    twice = draftx.Updates(2, UPDATES.minibatch_size, UPDATES.steps_per_update)
    result = train(pipeline, method, JPEG, num_train_steps=3, updates=twice)
    losses = [row["denoising_loss"] for row in result.history]
    assert losses[-1] < losses[0]
    rewards = np.asarray([0.0, 1.0, 2.0])
    weights, _ = method.weigh(method.remember(1), np.zeros(3, int), rewards)
    logits = (rewards - 1) / rewards.std() / 0.5
    np.testing.assert_allclose(
        weights, 3 * np.exp(logits) / np.exp(logits).sum(), rtol=1e-4
    )


def test_impossible_numbers_are_named():
    with pytest.raises(ValueError, match="`temperature` must be"):
        draftx.RewardWeighted(temperature=0.0)
