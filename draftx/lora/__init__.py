"""Low-rank adapters: putting them on a model, and their arithmetic."""

from ..models import lora_filter as lora_filter
from ._adapt import (
    add_lora as add_lora,
    DEFAULT_TARGETS as DEFAULT_TARGETS,
    has_lora as has_lora,
    TARGET_GROUPS as TARGET_GROUPS,
    with_lora as with_lora,
)
from ._algebra import (
    merge_lora as merge_lora,
    mix_lora as mix_lora,
    scale_lora as scale_lora,
)
from ._names import lora_state_dict as lora_state_dict
