"""Everything a prompt passes on its way to a picture, as one module."""

from ._pipeline import Pipeline as Pipeline
from ._sample import (
    check_guidance_scale as check_guidance_scale,
    negative_input_ids as negative_input_ids,
    prepare as prepare,
    sample as sample,
)
