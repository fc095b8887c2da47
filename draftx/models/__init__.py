"""The networks of a latent diffusion model: UNet, autoencoder, text encoder."""

from ._config import (
    check_fixed as check_fixed,
    ConfigError as ConfigError,
    is_number as is_number,
    known_fields as known_fields,
)
from ._keys import (
    checkpoint_arrays as checkpoint_arrays,
    checkpoint_key as checkpoint_key,
    iter_layers as iter_layers,
    iter_linears as iter_linears,
    map_layers as map_layers,
    map_linears as map_linears,
    named_parameters as named_parameters,
    Parameter as Parameter,
    replace_parameters as replace_parameters,
)
from .clip import (
    CLIPConfig as CLIPConfig,
    CLIPTextConfig as CLIPTextConfig,
    CLIPTextModel as CLIPTextModel,
    CLIPTokenizer as CLIPTokenizer,
    CLIPVisionConfig as CLIPVisionConfig,
)
from .unet import (
    ImageTokens as ImageTokens,
    TextContext as TextContext,
    TimeShifts as TimeShifts,
    UNet2DConditionModel as UNet2DConditionModel,
    UNetConfig as UNetConfig,
)
from .vae import AutoencoderConfig as AutoencoderConfig, AutoencoderKL as AutoencoderKL
