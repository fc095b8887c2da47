"""From the names and layouts of open_clip to those of transformers."""

import re
from collections.abc import Mapping

import numpy as np


_RENAMED = (
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (
        r"^visual\.positional_embedding$",
        "vision_model.embeddings.position_embedding.weight",
    ),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
# Stored as x @ W, where transformers has W @ x.
_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}


def from_open_clip(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames a state dict to that of a `CLIPModel` of transformers.

    **Arguments:**

    - `state`: Of a CLIP of open_clip whose vision tower is a `VisionTransformer`.

    **Returns:**

    Views of the same arrays. A name that open_clip does not have is left as it is.
    """
    converted = {}
    for key, array in state.items():
        if key in _TRANSPOSED:
            converted[_TRANSPOSED[key]] = array.T
            continue
        name = key
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        # Query, key and value are one matrix.
        fused = re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", name)
        if fused is None:
            converted[name] = array
            continue
        third = array.shape[0] // 3
        for i, part in enumerate("qkv"):
            rows = array[i * third : (i + 1) * third]
            converted[f"{fused[1]}{part}_proj.{fused[2]}"] = rows
    return converted
