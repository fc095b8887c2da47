import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._custom_types import Real
from .._config import (
    block_types,
    check_fixed,
    ConfigError,
    is_number,
    known_fields,
    one_value,
)


# Fields of diffusers' UNet whose other values would change the arithmetic.
_FIXED = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
# Where `null` is a network of its own: one without a middle, one without norms.
_NEVER_NULL = ("mid_block_type", "norm_num_groups")
# What diffusers takes of a file that does not say it, where that is not 1.4's.
_MISSING: dict[str, Any] = {"cross_attention_dim": 1280}
_PER_LEVEL = (
    "layers_per_block",
    "transformer_layers_per_block",
    "attention_head_dim",
    "num_attention_heads",
)
_DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Describes a UNet, field for field as in diffusers' `config.json`.

    The defaults are Stable Diffusion 1.4's. Beware of `attention_head_dim`: in files
    without `num_attention_heads` it holds the *number* of heads. `sample_size` is that
    of the latents, one number for squares or height and width. Where a field has an
    entry for each level and all are equal, one number says the same and is kept.
    """

    sample_size: int | tuple[int, ...] = 64
    in_channels: int = 4
    out_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: Real = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    transformer_layers_per_block: int | tuple[int, ...] = 1
    norm_num_groups: int = 32
    norm_eps: Real = 1e-5
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    use_linear_projection: bool = False

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            types = getattr(self, name)
            if len(types) != levels:
                raise ConfigError(
                    f"`{name}` must have one entry per entry of `block_out_channels`; "
                    f"got {len(types)} and {levels}."
                )
            for block_type in types:
                if block_type not in known:
                    raise ConfigError(
                        f"`{name}` must hold only {sorted(known)}; got {block_type!r}."
                    )
        for name in _PER_LEVEL:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise ConfigError(
                    f"`{name}` must be a number or have one entry per level; got "
                    f"{value} for {levels} levels."
                )
        size = self.sample_size
        sides = size if isinstance(size, tuple) else (size, size)
        if len(sides) != 2 or min(sides) < 1:
            raise ConfigError(
                "`sample_size` must be one positive number or two, height and width; "
                f"got {size}."
            )
        for name in ("sample_size", *_PER_LEVEL):
            object.__setattr__(self, name, one_value(getattr(self, name)))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "UNetConfig":
        """Reads a parsed `config.json`; a field with another meaning is an error."""
        check_fixed(config, _FIXED, "the UNet")
        for name in _NEVER_NULL:
            if config.get(name, name) is None:
                raise ConfigError(
                    f"`{name}` of the UNet must be said or left out; got null, which "
                    "is another network."
                )
        for name in _PER_LEVEL:
            numbers = config.get(name)
            if isinstance(one_value(numbers), list) and not all(
                is_number(n) for n in numbers or ()
            ):
                raise ConfigError(
                    f"`{name}` of the UNet must be numbers, one per level; got "
                    f"{numbers}, which is not implemented."
                )
        given = _MISSING | known_fields(cls, config, "the UNet")
        read = cls(**(given | block_types(given)))
        read._check_repeats(config)
        return read

    def _check_repeats(self, config: Mapping[str, Any]) -> None:
        """Refuses fields of a file that say something else than others do."""
        layers = self.per_level(self.transformer_layers_per_block)
        for name, accepted in (
            ("cross_attention_dim", self._said(self.cross_attention_dim)),
            ("only_cross_attention", self._said(False)),
            ("reverse_transformer_layers_per_block", (layers[::-1],)),
            ("time_embedding_dim", (4 * self.block_out_channels[0],)),
        ):
            value = config.get(name)
            value = tuple(value) if isinstance(value, list) else value
            if value is not None and value not in accepted:
                raise ConfigError(
                    f"`{name}` of the UNet must be one of {list(accepted)}; got "
                    f"{config[name]}, which is not implemented."
                )

    def _said(self, value: Any) -> tuple[Any, Any]:
        """How a file may say a value that is the same at all levels."""
        return (value, self.per_level(value))

    def per_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        """Turns a number or a tuple into a tuple with one entry per level."""
        if isinstance(value, tuple):
            return value
        return (value,) * len(self.block_out_channels)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents that the network was trained on."""
        size = self.sample_size
        return (size[0], size[1]) if isinstance(size, tuple) else (size, size)

    @property
    def num_heads(self) -> tuple[int, ...]:
        """How many heads the attention of each level has."""
        heads = self.num_attention_heads
        return self.per_level(self.attention_head_dim if heads is None else heads)

    @property
    def down_has_attention(self) -> tuple[bool, ...]:
        """Which of the blocks on the way down attend to the text."""
        return tuple(_DOWN[block_type] for block_type in self.down_block_types)

    @property
    def up_has_attention(self) -> tuple[bool, ...]:
        """Which of the blocks on the way up attend to the text."""
        return tuple(_UP[block_type] for block_type in self.up_block_types)

    @property
    def downsampling_factor(self) -> int:
        """Height and width of the latents must be multiples of this."""
        return 2 ** (len(self.block_out_channels) - 1)
