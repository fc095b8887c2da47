import dataclasses
from collections.abc import Mapping
from typing import Any

from ...models import ConfigError
from ...models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig


# `google/owlvit-base-patch32`, and what transformers takes where a file says nothing.
OWLVIT_B_32 = CLIPConfig(
    text=CLIPTextConfig(
        hidden_size=512,
        intermediate_size=2048,
        num_attention_heads=8,
        max_position_embeddings=16,
    ),
    vision=CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=768,
        patch_size=32,
    ),
    projection_dim=512,
)


def owlvit_config(config: Mapping[str, Any]) -> CLIPConfig:
    """Reads the parsed `config.json` of an `OwlViTForObjectDetection`.

    Its towers are CLIP's. Whatever the file says of the end token, a query ends at the
    token with the highest id.

    **Arguments:**

    - `config`: A parsed `config.json`.
    """
    towers = CLIPConfig.from_dict(config, defaults=OWLVIT_B_32)
    if towers.projection_dim != towers.text.hidden_size:
        # Patches are given the one size and queries the other, and both are compared.
        raise ConfigError(
            "`projection_dim` of an OWL-ViT must be the `hidden_size` of its text "
            f"tower; got {towers.projection_dim} and {towers.text.hidden_size}."
        )
    return dataclasses.replace(towers, eos_token_id=2)
