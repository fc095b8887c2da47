"""What a run is to be: its configuration, and the objects that it speaks of."""

from ._config import (
    config_fields as config_fields,
    EvaluationSection as EvaluationSection,
    RunConfig as RunConfig,
    SamplingSection as SamplingSection,
)
from ._config_files import (
    check_finite as check_finite,
    config_table as config_table,
    differences as differences,
    read_config as read_config,
    write_config as write_config,
)
from ._fields import (
    ModelConfigField as ModelConfigField,
    ModelField as ModelField,
    RevisionField as RevisionField,
    VariantField as VariantField,
)
from ._hpdv2 import hpdv2_files as hpdv2_files, HPDV2_NAMES as HPDV2_NAMES
from ._make import (
    keys as keys,
    load_base as load_base,
    make_checkpoints as make_checkpoints,
    make_drawn as make_drawn,
    make_evaluation as make_evaluation,
    make_memory as make_memory,
    make_optimizer as make_optimizer,
    make_pipeline as make_pipeline,
    make_prompts as make_prompts,
    make_rewards as make_rewards,
    make_run_mesh as make_run_mesh,
    make_sampling as make_sampling,
    make_stopping as make_stopping,
    make_training_method as make_training_method,
)
from ._methods import ROUND_METHODS as ROUND_METHODS
from ._numbers import check_numbers as check_numbers
from ._presets import default_config as default_config, PRESETS as PRESETS
from ._prompt_pictures import check_pictures_of as check_pictures_of
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
from ._signatures import section as section
from ._words import ANIMALS as ANIMALS, WORD_LISTS as WORD_LISTS
