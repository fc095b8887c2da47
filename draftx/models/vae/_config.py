import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._custom_types import Real
from .._config import block_types, check_fixed, ConfigError, known_fields, one_value


_FIXED = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None, 0, 0.0),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
}
# What diffusers takes of a file that does not say it, where that is not 1.4's.
_MISSING: dict[str, Any] = {
    "block_out_channels": (64,),
    "down_block_types": ("DownEncoderBlock2D",),
    "layers_per_block": 1,
    "sample_size": 32,
    "up_block_types": ("UpDecoderBlock2D",),
}
_TYPES = {
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Describes the architecture of an autoencoder, as in diffusers' `config.json`.

    The defaults are Stable Diffusion 1.4's.
    """

    sample_size: int | tuple[int, ...] = 512
    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",) * 4
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: Real = 0.18215
    force_upcast: bool = True

    def __post_init__(self):
        if not isinstance(self.force_upcast, bool):
            raise ConfigError(
                "`force_upcast` of the autoencoder must be true or false; got "
                f"{self.force_upcast!r}."
            )
        for name, only in _TYPES.items():
            types = getattr(self, name)
            if types != (only,) * len(self.block_out_channels):
                raise ConfigError(
                    f"`{name}` must be {only!r} for each entry of "
                    f"`block_out_channels`; got {types}."
                )
        object.__setattr__(self, "sample_size", one_value(self.sample_size))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "AutoencoderConfig":
        """Reads a parsed `config.json`; a field with another meaning is an error."""
        check_fixed(config, _FIXED, "the autoencoder")
        given = _MISSING | known_fields(cls, config, "the autoencoder")
        return cls(**(given | block_types(given)))

    @property
    def downsampling_factor(self) -> int:
        """Pixels per latent, along each axis."""
        return 2 ** (len(self.block_out_channels) - 1)
