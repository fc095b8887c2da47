from ._config import (
    CLIPConfig as CLIPConfig,
    CLIPTextConfig as CLIPTextConfig,
    CLIPVisionConfig as CLIPVisionConfig,
)
from ._model import (
    CLIPModel as CLIPModel,
    CLIPVisionModelWithProjection as CLIPVisionModelWithProjection,
)
from ._open_clip import from_open_clip as from_open_clip
from ._text import CLIPTextModel as CLIPTextModel
from ._tokenizer import check_prompts as check_prompts, CLIPTokenizer as CLIPTokenizer
from ._vision import CLIPVisionModel as CLIPVisionModel
