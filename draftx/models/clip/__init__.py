"""CLIP: configs, the text tower, the tokenizer, and the layer of both towers."""

from ._byte_pairs import encode_rows as encode_rows
from ._config import (
    CLIPConfig as CLIPConfig,
    CLIPTextConfig as CLIPTextConfig,
    CLIPVisionConfig as CLIPVisionConfig,
)
from ._encoder import EncoderLayer as EncoderLayer
from ._text import CLIPTextModel as CLIPTextModel
from ._tokenizer import CLIPTokenizer as CLIPTokenizer
