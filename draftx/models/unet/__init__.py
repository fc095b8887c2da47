from ._blocks import TextContext as TextContext, TimeShifts as TimeShifts
from ._config import UNetConfig as UNetConfig
from ._image_tokens import ImageTokens as ImageTokens
from ._unet import UNet2DConditionModel as UNet2DConditionModel
