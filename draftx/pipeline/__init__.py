"""Everything a prompt passes on its way to a picture, as one module."""

from ._learned import (
    add_learned_inputs as add_learned_inputs,
    LearnedInputs as LearnedInputs,
    remove_learned_inputs as remove_learned_inputs,
)
from ._pipeline import Pipeline as Pipeline
from ._sample import (
    check_eta as check_eta,
    check_guidance_scale as check_guidance_scale,
    check_lora_schedule as check_lora_schedule,
    negative_input_ids as negative_input_ids,
    prepare as prepare,
    sample as sample,
)
