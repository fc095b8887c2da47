"""Low-rank adapters: layers that wrap, putting them on a model, their arithmetic."""

from ._adapt import add_lora as add_lora
from ._algebra import (
    merge_lora as merge_lora,
    mix_lora as mix_lora,
    scale_lora as scale_lora,
)
from ._conv import LoRAConv2d as LoRAConv2d, PremergedConv2d as PremergedConv2d
from ._interface import AbstractLoRA as AbstractLoRA
from ._linear import LoRALinear as LoRALinear, PremergedLinear as PremergedLinear
from ._targets import (
    DEFAULT_TARGETS as DEFAULT_TARGETS,
    TARGET_GROUPS as TARGET_GROUPS,
)
from ._tree import (
    has_lora as has_lora,
    iter_lora as iter_lora,
    lora_filter as lora_filter,
    lora_state_dict as lora_state_dict,
    premerge as premerge,
    with_lora as with_lora,
    without_lora as without_lora,
)
