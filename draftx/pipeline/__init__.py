"""Everything a prompt passes on its way to an image, as one module."""

from ._batch import (
    Batch as Batch,
    Conditioning as Conditioning,
    take_rows as take_rows,
)
from ._channels import (
    add_conditioning_image as add_conditioning_image,
    check_channels as check_channels,
)
from ._decoding import (
    decoding as decoding,
    into_groups as into_groups,
    joined as joined,
)
from ._finite import check_drawn as check_drawn
from ._learned import (
    add_learned_inputs as add_learned_inputs,
    LearnedInputs as LearnedInputs,
    remove_learned_inputs as remove_learned_inputs,
)
from ._pipeline import Pipeline as Pipeline
from ._plan import Plan as Plan
from ._prepare import (
    condition as condition,
    latent_shape as latent_shape,
    make_plan as make_plan,
    prepare as prepare,
    starting_noise as starting_noise,
)
from ._sample import draw as draw, sample as sample, sample_rows as sample_rows
from ._sampling import Sampling as Sampling
from ._shard import (
    divided as divided,
    place as place,
    shard as shard,
    spread as spread,
)
from ._texts import encode_texts as encode_texts
