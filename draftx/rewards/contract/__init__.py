"""What a reward is, and how one is called."""

from ._host import HostReward as HostReward, probe_host_rewards as probe_host_rewards
from ._reward import (
    AbstractRandomReward as AbstractRandomReward,
    AbstractReward as AbstractReward,
    as_reward as as_reward,
    FunctionReward as FunctionReward,
    Reward as Reward,
    with_key as with_key,
)
