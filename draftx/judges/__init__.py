"""The networks that rewards are made of: what looks at images, and at words."""

from ._aesthetic_head import AestheticHead as AestheticHead
from ._counter import ObjectCounter as ObjectCounter
from ._vit import VisionTransformer as VisionTransformer
from .blip import (
    BertConfig as BertConfig,
    BertTokenizer as BertTokenizer,
    BertWithImage as BertWithImage,
    from_blip as from_blip,
    IMAGE_REWARD as IMAGE_REWARD,
    ImageRewardConfig as ImageRewardConfig,
    ImageRewardModel as ImageRewardModel,
)
from .classifiers import (
    EfficientNetLite as EfficientNetLite,
    PerceptualTrunk as PerceptualTrunk,
    ResNet as ResNet,
)
from .clip import (
    CLIPModel as CLIPModel,
    CLIPVisionModel as CLIPVisionModel,
    CLIPVisionModelWithProjection as CLIPVisionModelWithProjection,
    from_open_clip as from_open_clip,
    open_clip_config as open_clip_config,
    OpenCLIPTokenizer as OpenCLIPTokenizer,
)
from .dinov2 import (
    dinov2_config as dinov2_config,
    DINOV2_S_14 as DINOV2_S_14,
    Dinov2Model as Dinov2Model,
    from_dinov2 as from_dinov2,
)
from .owlvit import (
    Detections as Detections,
    OWLVIT_B_32 as OWLVIT_B_32,
    owlvit_config as owlvit_config,
    OwlViTForObjectDetection as OwlViTForObjectDetection,
)
