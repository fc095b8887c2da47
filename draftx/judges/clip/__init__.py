"""Both towers of CLIP."""

from ._model import (
    CLIPModel as CLIPModel,
    CLIPVisionModelWithProjection as CLIPVisionModelWithProjection,
)
from ._open_clip import from_open_clip as from_open_clip
from ._open_clip_config import open_clip_config as open_clip_config
from ._open_clip_tokenizer import OpenCLIPTokenizer as OpenCLIPTokenizer
from ._vision import CLIPVisionModel as CLIPVisionModel
