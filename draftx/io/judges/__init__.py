"""The networks of rewards, from the files that they were published as."""

from ._clip import (
    read_aesthetic_head as read_aesthetic_head,
    read_clip as read_clip,
    read_open_clip as read_open_clip,
    read_tokenizer as read_tokenizer,
    VIT_H_14 as VIT_H_14,
)
from ._dinov2 import read_dinov2 as read_dinov2
from ._image_reward import (
    read_bert_tokenizer as read_bert_tokenizer,
    read_image_reward as read_image_reward,
)
from ._networks import read_network as read_network
from ._owlvit import read_owlvit as read_owlvit
