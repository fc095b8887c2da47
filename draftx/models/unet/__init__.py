from ._config import UNetConfig as UNetConfig
from ._unet import UNet2DConditionModel as UNet2DConditionModel
