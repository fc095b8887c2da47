"""Trainings as folders: prompts from files, and what a run leaves behind."""

from ._lock import FolderLock as FolderLock, RunInUseError as RunInUseError
from ._prompts import read_prompts as read_prompts, split_prompts as split_prompts
from ._rewards import (
    load_reward as load_reward,
    parse_rewards as parse_rewards,
    reward_names as reward_names,
    RewardSpec as RewardSpec,
)
from ._scenes import (
    animal_of as animal_of,
    HELD_OUT_ANIMALS as HELD_OUT_ANIMALS,
    held_out_scenes as held_out_scenes,
    in_style as in_style,
    scenes as scenes,
    STYLES as STYLES,
    TRAIN_ANIMALS as TRAIN_ANIMALS,
    train_scenes as train_scenes,
)
from .._signals import EXIT_CODES as EXIT_CODES, StopSignals as StopSignals
from ._words import ANIMALS as ANIMALS, WORD_LISTS as WORD_LISTS
