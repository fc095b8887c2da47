"""Trainings as folders: prompts from files, and what a run leaves behind."""

from ._lock import FolderLock as FolderLock, RunInUseError as RunInUseError
from ._prompts import read_prompts as read_prompts, split_prompts as split_prompts
from ._signals import EXIT_CODES as EXIT_CODES, StopSignals as StopSignals
from ._words import ANIMALS as ANIMALS, WORD_LISTS as WORD_LISTS
