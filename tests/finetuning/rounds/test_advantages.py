import numpy as np

from draftx.finetuning.rounds._advantages import AdvantageNormalizer


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
