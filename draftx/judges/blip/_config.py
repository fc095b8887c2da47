import dataclasses
from collections.abc import Mapping
from typing import Any

from ..._custom_types import Real
from ...models import ConfigError, known_fields
from ...models.clip import CLIPVisionConfig


_FIXED = {
    "add_cross_attention": True,
    "hidden_act": "gelu",
    "model_type": "bert",
    "position_embedding_type": "absolute",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Describes the architecture of BLIP's text encoder, as in its `med_config.json`.

    The defaults are ImageReward's: BERT-base with two more tokens.
    """

    vocab_size: int = 30524
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    layer_norm_eps: Real = 1e-12

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads != 0:
            raise ConfigError(
                "`num_attention_heads` must divide `hidden_size`; got "
                f"{self.num_attention_heads} and {self.hidden_size}."
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Reads a parsed `med_config.json`; a field with another meaning is an error.

        Its `encoder_width` is not read: the published code replaces it by the width of
        the image encoder.
        """
        for name, value in _FIXED.items():
            # `null` says the default in other words.
            if config.get(name) not in (None, value):
                raise ConfigError(
                    f"`{name}` of BLIP's text encoder must be {value!r}; got "
                    f"{config[name]!r}, which is not implemented."
                )
        return cls(**known_fields(cls, config, "BLIP's text encoder"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRewardConfig:
    """Describes both encoders, and the sizes between the five layers that follow.

    The image encoder is a vision transformer with the sizes of a CLIP's. The defaults
    are those of the published ImageReward, with BLIP's ViT-L/16.
    """

    text: BertConfig = BertConfig()
    vision: CLIPVisionConfig = CLIPVisionConfig(
        patch_size=16, hidden_act="gelu", layer_norm_eps=1e-6
    )
    head_widths: tuple[int, ...] = (1024, 128, 64, 16)


IMAGE_REWARD = ImageRewardConfig()
