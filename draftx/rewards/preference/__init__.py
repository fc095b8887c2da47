"""How well images show their prompts, and how much people like them."""

from ...judges import AestheticHead as AestheticHead
from ._aesthetic import AestheticScore as AestheticScore
from ._clip_score import (
    AbstractCLIPReward as AbstractCLIPReward,
    CLIPScore as CLIPScore,
    HPSv2 as HPSv2,
    PickScore as PickScore,
)
from ._dropout import AestheticDropout as AestheticDropout
from ._hps_benchmark import (
    hps_benchmark as hps_benchmark,
    hps_prompts as hps_prompts,
    hps_result as hps_result,
    HPS_STYLES as HPS_STYLES,
    HPSResult as HPSResult,
)
from ._image_reward import ImageReward as ImageReward
from ._similarity import (
    check_tokenizer as check_tokenizer,
    text_embeddings as text_embeddings,
)
