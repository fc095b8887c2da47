import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._custom_types import Real
from .._config import check_fixed, ConfigError, known_fields


_FIXED = {
    "hidden_act": ("quick_gelu", "gelu"),
    # Diffusers' pipeline would hide the padding from the text.
    "use_attention_mask": (False,),
}
# What transformers takes of a file that does not say it, where that is not 1.4's.
_MISSING: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
}


def _check_heads(heads: int, width: int) -> None:
    if heads < 1 or width % heads != 0:
        raise ConfigError(
            f"`num_attention_heads` must divide `hidden_size`; got {heads} and {width}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """Describes CLIP's text tower, as in transformers' `config.json`.

    The defaults are CLIP ViT-L/14's, Stable Diffusion 1.4's text encoder.
    """

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Real = 1e-5

    def __post_init__(self):
        _check_heads(self.num_attention_heads, self.hidden_size)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "CLIPTextConfig":
        """Reads a parsed `config.json`; a field with another meaning is an error.

        Of a file of both of CLIP's towers, the entry `text_config` is read.
        """
        config = config.get("text_config") or config
        check_fixed(config, _FIXED, "the text encoder")
        return cls(**(_MISSING | known_fields(cls, config, "the text encoder")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """Describes CLIP's vision tower, as in transformers' `config.json`.

    The defaults are CLIP ViT-L/14's.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Real = 1e-5

    def __post_init__(self):
        if self.image_size % self.patch_size != 0:
            raise ConfigError(
                "`image_size` must be a multiple of `patch_size`; got "
                f"{self.image_size} and {self.patch_size}."
            )
        _check_heads(self.num_attention_heads, self.hidden_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Describes the architecture of both towers and what joins them.

    The defaults are CLIP ViT-L/14's. `eos_token_id` says where a prompt's embedding is
    read: at the first such token, or, if it is 2, at the token with the highest id.
    The first published configs say 2, which is not the id of the end token; for CLIP's
    own vocabulary both rules find the same place.
    """

    text: CLIPTextConfig = CLIPTextConfig()
    vision: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: int = 768
    eos_token_id: int = 2

    @classmethod
    def from_dict(
        cls, config: Mapping[str, Any], *, defaults: "CLIPConfig | None" = None
    ) -> "CLIPConfig":
        """Reads the parsed `config.json` of a `CLIPModel`, or of what has its towers.

        **Arguments:**

        - `config`: The file.
        - `defaults`: What it leaves out; `None` are the defaults of transformers, which
            are ViT-B/32's.
        """
        defaults = _VIT_B_32 if defaults is None else defaults
        text = dataclasses.asdict(defaults.text) | _tower(config, "text")
        vision = dataclasses.asdict(defaults.vision) | _tower(config, "vision")
        own = dict(
            projection_dim=config.get("projection_dim", defaults.projection_dim),
            eos_token_id=text.get("eos_token_id", defaults.eos_token_id),
        )
        return cls(
            text=CLIPTextConfig(
                **known_fields(CLIPTextConfig, text, "CLIP's text tower")
            ),
            vision=CLIPVisionConfig(
                **known_fields(CLIPVisionConfig, vision, "CLIP's vision tower")
            ),
            **known_fields(cls, own, "CLIP"),
        )


_VIT_B_32 = CLIPConfig(
    text=CLIPTextConfig(hidden_size=512, intermediate_size=2048, num_attention_heads=8),
    vision=CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=32,
    ),
    projection_dim=512,
    eos_token_id=49407,
)
_TOWERS = {
    "text": dataclasses.asdict(_VIT_B_32.text)
    | {"eos_token_id": _VIT_B_32.eos_token_id},
    "vision": dataclasses.asdict(_VIT_B_32.vision),
}
_TOWER_FIXED = {"hidden_act": ("quick_gelu", "gelu"), "num_channels": (3,)}


def _tower(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    part, older = config.get(f"{name}_config"), config.get(f"{name}_config_dict")
    if isinstance(older, Mapping):
        # Where files have both, transformers lets this one win, defaults included.
        part = {**(part or {}), **_TOWERS[name], **older}
    if not isinstance(part, Mapping):
        raise ConfigError(
            f"`{name}_config` must be there, as in the config.json of a CLIPModel; "
            f"got {part!r}."
        )
    for field, accepted in _TOWER_FIXED.items():
        if part.get(field) not in (None, *accepted):
            raise ConfigError(
                f"`{field}` of CLIP's {name} tower must be one of {list(accepted)}; "
                f"got {part[field]!r}, which is not implemented."
            )
    return {key: value for key, value in part.items() if value is not None}
