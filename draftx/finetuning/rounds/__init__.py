"""Training in rounds: methods that learn from what was drawn."""

from ._ddpo import DDPO as DDPO
from ._dpg import DPG as DPG
from ._reward_weighted import RewardWeighted as RewardWeighted
from ._round_method import (
    AbstractRoundMethod as AbstractRoundMethod,
    Rollout as Rollout,
)
from ._rounds import finetune_in_rounds as finetune_in_rounds
from ._updates import Updates as Updates
