"""Whole models in one file, in the layout of the code they were published with."""

from ._kinds import (
    check_is_whole as check_is_whole,
    Kind as Kind,
    kind_of_file as kind_of_file,
    KINDS as KINDS,
)
from ._layout import (
    OriginalTensors as OriginalTensors,
    PartOfFile as PartOfFile,
    Place as Place,
    places as places,
)
from ._names import TEXT_1 as TEXT_1, TEXT_2 as TEXT_2, UNET as UNET, VAE as VAE
from ._vocabulary import clip_tokenizer as clip_tokenizer
