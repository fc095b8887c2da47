from ._config import (
    BertConfig as BertConfig,
    IMAGE_REWARD as IMAGE_REWARD,
    ImageRewardConfig as ImageRewardConfig,
)
from ._model import ImageRewardModel as ImageRewardModel
from ._names import from_blip as from_blip
from ._text import BertWithImage as BertWithImage
from ._tokenizer import BertTokenizer as BertTokenizer
