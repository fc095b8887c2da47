"""The description of a model as open_clip writes it."""

from collections.abc import Mapping
from typing import Any

from ...models import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, ConfigError


# What open_clip takes for a field that is absent.
_TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
}
_VISION = {
    "image_size": 224,
    "patch_size": 16,
    "width": 768,
    "head_width": 64,
    "layers": 12,
    "mlp_ratio": 4.0,
}
# Fields that change no embedding of a trained model unless another field says so.
_NO_MATTER = {
    "attn_pooler_heads",
    "attn_pooler_queries",
    "eos_id",
    "hf_model_pretrained",
    "hf_pooler_type",
    "hf_proj_type",
    "output_tokens",
    "pad_id",
    "patch_dropout",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
}
_FIXED = {
    "block_type": ("default",),
    "pool_type": ("tok", "argmax"),
    "pos_embed_type": ("learnable",),
    "proj_type": ("linear",),
}


def open_clip_config(config: Mapping[str, Any]) -> CLIPConfig:
    """Reads the description of a model of open_clip; what draftx lacks is an error.

    **Arguments:**

    - `config`: A parsed `open_clip_config.json`, whose `model_cfg` counts, or one of
        open_clip's own model configs: with `embed_dim`, `vision_cfg` and `text_cfg`.
    """
    config = config.get("model_cfg", config)
    embed_dim = config.get("embed_dim")
    if not isinstance(embed_dim, int):
        raise ConfigError(
            "`embed_dim` must be a whole number, as open_clip has it; got "
            f"{embed_dim!r}."
        )
    text = _fields(config, "text_cfg", _TEXT)
    vision = _fields(config, "vision_cfg", _VISION)
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return CLIPConfig(
        text=CLIPTextConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["width"],
            intermediate_size=int(text["width"] * text["mlp_ratio"]),
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            max_position_embeddings=text["context_length"],
            hidden_act=act,
        ),
        vision=CLIPVisionConfig(
            hidden_size=vision["width"],
            intermediate_size=int(vision["width"] * vision["mlp_ratio"]),
            num_hidden_layers=vision["layers"],
            num_attention_heads=vision["width"] // vision["head_width"],
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            hidden_act=act,
        ),
        projection_dim=embed_dim,
    )


def _fields(
    config: Mapping[str, Any], tower: str, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    part = config.get(tower)
    if not isinstance(part, Mapping):
        raise ConfigError(
            f"`{tower}` must be there, as open_clip has it; got {part!r}."
        )
    read = dict(defaults)
    for name, value in part.items():
        if name in read:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(
                    f"`{name}` of `{tower}` must be a number; got {value!r}. Other "
                    "models than vision transformers are not implemented."
                )
            read[name] = value
        # Absent, off or zero is the default of all other fields.
        elif value and name not in _NO_MATTER and value not in _FIXED.get(name, ()):
            raise ConfigError(
                f"`{name}` of `{tower}` must be absent or off; got {value!r}, which is "
                "not implemented."
            )
    return read
