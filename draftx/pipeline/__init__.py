"""Everything a prompt passes on its way to a picture, as one module."""

from ._pipeline import Pipeline as Pipeline
from ._sample import (
    check_guidance_scale as check_guidance_scale,
    check_latents as check_latents,
    negative_input_ids as negative_input_ids,
    sample as sample,
)
