"""Held-out figures of a pipeline, and what is decided by them."""

from ._diversity import coarse_pixels as coarse_pixels, diversity as diversity
from ._early_stopping import (
    check_diversity as check_diversity,
    EarlyStopping as EarlyStopping,
)
from ._evaluation import Evaluation as Evaluation
from ._lora_scale import sweep_lora_scale as sweep_lora_scale
