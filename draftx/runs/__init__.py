"""Trainings as folders: what they are made of, what they leave behind, the command."""

from .._signals import EXIT_CODES as EXIT_CODES
from ._command import main as main
from ._config import PRESETS as PRESETS, RunConfig as RunConfig
from ._config_files import (
    differences as differences,
    read_config as read_config,
    write_config as write_config,
)
from ._folder import (
    open_run as open_run,
    RunFolder as RunFolder,
    SavedRun as SavedRun,
)
from ._lock import FolderLock as FolderLock, RunInUseError as RunInUseError
from ._pictures import captioned_grid as captioned_grid, to_uint8 as to_uint8
from ._prompts import read_prompts as read_prompts, split_prompts as split_prompts
from ._push import push as push, PushError as PushError
from ._report import write_report as write_report
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
from ._train import train as train
from ._words import ANIMALS as ANIMALS, WORD_LISTS as WORD_LISTS


# As `draftx.runs.open`, which no name of its own could say better.
open = open_run
