import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._custom_types import Real
from .._config import check_fixed, known_fields


_FIXED = {
    "hidden_act": ("quick_gelu", "gelu"),
    "attention_dropout": (0, 0.0),
    "dropout": (0, 0.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """The architecture of CLIP's text tower, as in transformers' `config.json`.

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

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "CLIPTextConfig":
        """Reads a parsed `config.json`; a field with another meaning is an error."""
        check_fixed(config, _FIXED, "the text encoder")
        return cls(**known_fields(cls, config))
