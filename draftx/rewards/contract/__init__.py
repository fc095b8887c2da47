"""What a reward is, and how one is called."""

from ._checks import (
    check_finite as check_finite,
    check_scores as check_scores,
)
from ._errors import RewardError as RewardError
from ._host import HostReward as HostReward, probe_host_rewards as probe_host_rewards
from ._probe import check_differentiable as check_differentiable
from ._reward import (
    AbstractRandomReward as AbstractRandomReward,
    AbstractReward as AbstractReward,
    as_reward as as_reward,
    FunctionReward as FunctionReward,
    Reward as Reward,
    Scores as Scores,
    with_key as with_key,
)
