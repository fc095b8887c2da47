"""What a file of tensors looks like that is not what was asked for."""

import re
from collections.abc import Mapping


_WHOLE = r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\."
# Names of today: what has both is a part of a whole file, read as such.
_OURS = re.compile(r"(time_embedding|encoder|decoder|text_model)\.")
# (pattern found in the names of tensors, what they are then), the first that is found.
_BY_NAME = (
    (r"lora[_.]|\.hada_|\.lokr_", "an adapter: read it with `draftx.load_lora`"),
    (r"^control_model\.|^controlnet_", "a ControlNet, which is not supported"),
    (
        r"(^|\.)(double|joint|single)_blocks\.|^transformer_blocks\.",
        "a diffusion transformer, such as Stable Diffusion 3 or Flux, which is not "
        "supported",
    ),
    (
        r"^add_embedding\.|^conditioner\.|\.label_emb\.|transformer_blocks\.[1-9]\.",
        "SDXL, which is not supported",
    ),
    (
        _WHOLE,
        "a whole model in one file: give its path to `draftx.load`",
    ),
    (r"^decoder\.up_blocks\.", "an autoencoder"),
)
# Features of the text that a UNet attends to, and of a CLIP's own text.
_UNETS = {768: "1.x", 1024: "2.x"}
_CLIPS = {512: "ViT-B", 768: "ViT-L/14", 1024: "ViT-H/14", 1280: "ViT-bigG/14"}


def looks_like(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Says of what model tensors are, as a sentence with a space before it.

    **Arguments:**

    - `shapes`: By name.

    **Returns:**

    The sentence, or `""` where it cannot be told.
    """
    is_part = any(_OURS.match(key) for key in shapes)
    for pattern, kind in _BY_NAME:
        if pattern is _WHOLE and is_part:
            continue
        if any(re.search(pattern, key) for key in shapes):
            return f" It looks like {kind}."
    width = _last_size(shapes, r"\.attn2\.to_k\.weight")
    if width in _UNETS:
        return f" It looks like the UNet of Stable Diffusion {_UNETS[width]}."
    width = _last_size(shapes, r"(?<!\.)(text_model\.)?embeddings\.token_embedding.*")
    if width in _CLIPS:
        whole = any(key.startswith("vision_model.") for key in shapes)
        part = "CLIP" if whole else "the text encoder of CLIP"
        return f" It looks like {part} {_CLIPS[width]}."
    return ""


def _last_size(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int | None:
    """Of the last axis of the first tensor whose name ends so."""
    for key, shape in shapes.items():
        if re.search(f"{pattern}$", key) and shape:
            return shape[-1]
    return None
