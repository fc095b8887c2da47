"""Trainings as folders: what they are made of, what they leave behind, the command."""

from .._signals import EXIT_CODES as EXIT_CODES
from .commands import main as main
from .config import (
    animal_of as animal_of,
    ANIMALS as ANIMALS,
    differences as differences,
    HELD_OUT_ANIMALS as HELD_OUT_ANIMALS,
    held_out_scenes as held_out_scenes,
    in_style as in_style,
    load_reward as load_reward,
    parse_rewards as parse_rewards,
    PRESETS as PRESETS,
    read_config as read_config,
    read_prompts as read_prompts,
    reward_names as reward_names,
    RewardSpec as RewardSpec,
    RunConfig as RunConfig,
    scenes as scenes,
    split_prompts as split_prompts,
    STYLES as STYLES,
    TRAIN_ANIMALS as TRAIN_ANIMALS,
    train_scenes as train_scenes,
    WORD_LISTS as WORD_LISTS,
    write_config as write_config,
)
from .folder import (
    captioned_grid as captioned_grid,
    FolderLock as FolderLock,
    open_run as open_run,
    RunFolder as RunFolder,
    RunInUseError as RunInUseError,
    SavedRun as SavedRun,
    to_uint8 as to_uint8,
)
from .report import write_report as write_report
from .training import push as push, PushError as PushError, train as train


# As `draftx.runs.open`, which no name of its own could say better.
open = open_run
