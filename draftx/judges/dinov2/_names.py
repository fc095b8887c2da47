"""From the names and layouts of transformers' DINOv2 to ours."""

import re
from collections.abc import Mapping

import numpy as np


_CLASS = "vit.class_embedding"
_RENAMED = (
    (r"^embeddings\.patch_embeddings\.projection\.weight$", "vit.patch_embedding"),
    (r"^embeddings\.patch_embeddings\.projection\.bias$", "vit.patch_bias"),
    (r"^embeddings\.cls_token$", _CLASS),
    (r"^embeddings\.position_embeddings$", "vit.position_embedding"),
    (r"^encoder\.layer\.", "vit.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    # As it was published, and as transformers 5 has it.
    (r"\.attention\.attention\.(query|key|value)\.", r".self_attn.\1_proj."),
    (r"\.self_attn\.([qkv])\w+_proj\.", r".self_attn.\1_proj."),
    (r"\.attention\.output\.dense\.", ".self_attn.out_proj."),
    (r"\.attention\.o_proj\.", ".self_attn.out_proj."),
    (r"\.attention\.([qkv])_proj\.", r".self_attn.\1_proj."),
    (r"^layernorm\.", "vit.post_layernorm."),
)
# What hides patches in training.
_UNUSED = "embeddings.mask_token"
# The factor of each residual, and the layer that it comes after.
_SCALED = {"layer_scale1": "self_attn.out_proj", "layer_scale2": "mlp.fc2"}


def from_dinov2(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    r"""Renames the arrays of a [`draftx.judges.Dinov2Model`][] as they are here.

    A layer of DINOv2 is one of CLIP whose residuals have a factor for each feature,
    $\lambda \odot (W x + b)$: it becomes part of $W$ and $b$.

    **Arguments:**

    - `state`: As transformers saves it.

    **Returns:**

    The arrays. A name that is not known is left as it is.
    """
    converted = {}
    for key, array in state.items():
        if key == _UNUSED:
            continue
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        is_first = key in (_CLASS, "vit.position_embedding")
        converted[key] = array[0] if is_first and array.ndim > 1 else array
    converted[_CLASS] = converted[_CLASS].reshape(-1)
    for key in [*converted]:
        match = re.fullmatch(r"(vit\.layers\.\d+)\.(layer_scale[12])\.lambda1", key)
        if match is None:
            continue
        scale = converted.pop(key)
        layer = f"{match[1]}.{_SCALED[match[2]]}"
        for part, factor in (("weight", scale[:, None]), ("bias", scale)):
            name = f"{layer}.{part}"
            if name in converted:
                converted[name] = converted[name] * factor
    return converted
