"""The three networks of Stable Diffusion 1.x: UNet, autoencoder, text encoder."""

from ._aesthetic_head import AestheticHead as AestheticHead
from ._config import ConfigError as ConfigError
from ._keys import (
    checkpoint_arrays as checkpoint_arrays,
    checkpoint_key as checkpoint_key,
    iter_linears as iter_linears,
    lora_filter as lora_filter,
    map_linears as map_linears,
    named_parameters as named_parameters,
    Parameter as Parameter,
    replace_parameters as replace_parameters,
)
from .blip import (
    BertConfig as BertConfig,
    BertTokenizer as BertTokenizer,
    BertWithImage as BertWithImage,
    BlipVisionModel as BlipVisionModel,
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
    check_prompts as check_prompts,
    CLIPConfig as CLIPConfig,
    CLIPModel as CLIPModel,
    CLIPTextConfig as CLIPTextConfig,
    CLIPTextModel as CLIPTextModel,
    CLIPTokenizer as CLIPTokenizer,
    CLIPVisionConfig as CLIPVisionConfig,
    CLIPVisionModel as CLIPVisionModel,
    CLIPVisionModelWithProjection as CLIPVisionModelWithProjection,
    from_open_clip as from_open_clip,
)
from .owlvit import (
    Detections as Detections,
    OWLVIT_B_32 as OWLVIT_B_32,
    owlvit_config as owlvit_config,
    OwlViTForObjectDetection as OwlViTForObjectDetection,
)
from .unet import (
    TextContext as TextContext,
    TimeShifts as TimeShifts,
    UNet2DConditionModel as UNet2DConditionModel,
    UNetConfig as UNetConfig,
)
from .vae import AutoencoderConfig as AutoencoderConfig, AutoencoderKL as AutoencoderKL
