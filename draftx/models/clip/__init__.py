from ._config import CLIPTextConfig as CLIPTextConfig
from ._text import CLIPTextModel as CLIPTextModel
from ._tokenizer import check_prompts as check_prompts, CLIPTokenizer as CLIPTokenizer
