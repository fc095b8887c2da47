from ._autoencoder import AutoencoderKL as AutoencoderKL
from ._config import AutoencoderConfig as AutoencoderConfig
