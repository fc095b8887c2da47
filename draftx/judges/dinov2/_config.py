from collections.abc import Mapping
from typing import Any

from ...models import ConfigError, is_number, known_fields
from ...models.clip import CLIPVisionConfig


# `facebook/dinov2-small`.
DINOV2_S_14 = CLIPVisionConfig(
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=12,
    num_attention_heads=6,
    image_size=518,
    patch_size=14,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
)
# What transformers takes where a file says nothing.
_MISSING: dict[str, Any] = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    mlp_ratio=4,
    image_size=224,
    patch_size=14,
    layer_norm_eps=1e-6,
)
_FIXED: dict[str, Any] = dict(
    hidden_act="gelu", num_channels=3, qkv_bias=True, use_swiglu_ffn=False
)


def dinov2_config(config: Mapping[str, Any]) -> CLIPVisionConfig:
    """Reads the parsed `config.json` of a `Dinov2Model`.

    Its layers are CLIP's, but for factors that are part of their weights here.

    **Arguments:**

    - `config`: A parsed `config.json`.
    """
    for name, value in _FIXED.items():
        # `null` is as if absent, but turns switches off.
        default = False if isinstance(value, bool) else value
        if _given(config, name, absent=value, null=default) != value:
            raise ConfigError(
                f"`{name}` of a DINOv2 must be {value!r}; got {config[name]!r}, which "
                "is another network. Use `facebook/dinov2-small`, `-base` or `-large`."
            )
    if config.get("num_register_tokens"):
        raise ConfigError(
            "`num_register_tokens` of a DINOv2 must be 0; got "
            f"{config['num_register_tokens']}. Use one without registers."
        )
    fields = {k: _given(config, k, absent=v, null=v) for k, v in _MISSING.items()}
    ratio = fields.pop("mlp_ratio")
    if not is_number(ratio) or not ratio > 0:
        raise ConfigError(
            f"`mlp_ratio` of a DINOv2 must be a positive number; got {ratio!r}."
        )
    fields = known_fields(CLIPVisionConfig, fields, "a DINOv2")
    inner = int(fields["hidden_size"] * ratio)
    return CLIPVisionConfig(**fields, intermediate_size=inner, hidden_act="gelu")


def _given(config: Mapping[str, Any], name: str, *, absent: Any, null: Any) -> Any:
    value = config.get(name, absent)
    return null if value is None else value
