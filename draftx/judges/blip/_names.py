"""From the names and layouts of BLIP's own code to ours."""

import re
from collections.abc import Mapping

import numpy as np


_RENAMED = (
    (r"^blip\.visual_encoder\.", "vision."),
    (r"^vision\.cls_token$", "vision.class_embedding"),
    (r"^vision\.pos_embed$", "vision.position_embedding"),
    (r"^vision\.patch_embed\.proj\.weight$", "vision.patch_embedding"),
    (r"^vision\.patch_embed\.proj\.bias$", "vision.patch_bias"),
    (r"^vision\.norm\.", "vision.post_layernorm."),
    (r"^vision\.blocks\.", "vision.layers."),
    (r"^(vision\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(vision\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.out_proj."),
    (r"^blip\.text_encoder\.embeddings\.LayerNorm\.", "text.layer_norm."),
    (
        r"^blip\.text_encoder\.embeddings\.word_embeddings\.weight$",
        "text.token_embedding",
    ),
    (
        r"^blip\.text_encoder\.embeddings\.position_embeddings\.weight$",
        "text.position_embedding",
    ),
    (r"^blip\.text_encoder\.encoder\.layer\.", "text.layers."),
    (r"^(text\..*attention)\.self\.", r"\1."),
    (r"^(text\..*attention)\.output\.dense\.", r"\1.dense."),
    (r"^(text\..*)\.output\.LayerNorm\.", r"\1.layer_norm."),
    (r"^(text\..*)\.(intermediate|output)\.dense\.", r"\1.\2."),
    # Dropout has the other places in the list.
    *(
        (rf"^mlp\.layers\.{there}\.", f"head.linears.{here}.")
        for here, there in enumerate((0, 2, 4, 6, 7))
    ),
)
# What compared images with texts in BLIP's own training. No score depends on it.
_UNUSED = re.compile(r"blip\.(vision|text)_proj\.(weight|bias)")


def from_blip(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the arrays of an [`draftx.judges.ImageRewardModel`][] as they are here.

    **Arguments:**

    - `state`: As ImageReward publishes it.

    **Returns:**

    Views of the same arrays. A name that is not known is left as it is.
    """
    converted = {}
    for key, array in state.items():
        if _UNUSED.fullmatch(key):
            continue
        name = key
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if name in ("vision.class_embedding", "vision.position_embedding"):
            # Both have axes of length one in front.
            while array.ndim > 1 and len(array) == 1:
                array = array[0]
        # Query, key and value are one matrix.
        fused = re.fullmatch(r"(vision\.layers\.\d+)\.attn\.qkv\.(weight|bias)", name)
        if fused is None:
            converted[name] = array
            continue
        third = array.shape[0] // 3
        for i, part in enumerate("qkv"):
            rows = array[i * third : (i + 1) * third]
            converted[f"{fused[1]}.self_attn.{part}_proj.{fused[2]}"] = rows
    return converted
