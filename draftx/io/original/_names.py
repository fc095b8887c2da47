"""The names of the code that Stable Diffusion was published with, for ours.

Ours are those of diffusers. A rule here is a pattern of our name and what stands for it
there; numbers of blocks, which are counted through there, are computed.
"""

import re
from collections.abc import Sequence

from ...models import UNetConfig


UNET, VAE = "model.diffusion_model.", "first_stage_model."
# Version 1 has transformers' text encoder, version 2 that of open_clip.
TEXT_1, TEXT_2 = "cond_stage_model.transformer.", "cond_stage_model.model."

_RESNET = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_UNET = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
_VAE = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
)
_OPEN_CLIP = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    # Three parts of one matrix.
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
)


def original_unet_key(key: str, config: UNetConfig) -> str:
    """Names a tensor of a UNet as its first code does, with the prefix.

    **Arguments:**

    - `key`: As diffusers names it.
    - `config`: Says how many layers the blocks before it have.
    """
    counts = config.per_level(config.layers_per_block)
    down = _starts([n + 1 for n in counts], first=1)
    up = _starts([n + 1 for n in reversed(counts)], first=0)
    rules = _RESNET if ".resnets." in key else ()
    block = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.", key)
    if block is None:
        return UNET + _renamed(key, (*_UNET, *rules))
    way, level, kind, index = block[1], int(block[2]), block[3], int(block[4])
    rest = _renamed("." + key[block.end() :], rules)
    if kind == "downsamplers":
        place = f"input_blocks.{down[level + 1] - 1}.0"
        rest = rest.replace(".conv.", ".op.", 1)
    elif kind == "upsamplers":
        # Beside the last layer of its block, after its transformer if it has one.
        has_attention = config.up_has_attention[level]
        place = f"output_blocks.{up[level + 1] - 1}.{2 if has_attention else 1}"
    else:
        number = (down if way == "down" else up)[level] + index
        blocks = "input_blocks" if way == "down" else "output_blocks"
        place = f"{blocks}.{number}.{0 if kind == 'resnets' else 1}"
    return f"{UNET}{place}{rest}"


def original_vae_key(key: str, levels: int) -> str:
    """Names a tensor of an autoencoder as its first code does, with the prefix.

    **Arguments:**

    - `key`: As diffusers names it.
    - `levels`: The number of its resolutions: the way up is counted from below there.
    """

    def up(match: re.Match) -> str:
        level = levels - 1 - int(match[1])
        is_layer = match[2] == "resnets"
        return f".up.{level}." + (f"block.{match[3]}" if is_layer else "upsample")

    key = re.sub(r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)", up, key)
    return VAE + _renamed(key, _VAE)


def original_text_key(key: str, *, is_open_clip: bool) -> str:
    """Names a tensor of a text encoder as Stable Diffusion 1 or 2 does.

    **Arguments:**

    - `key`: As transformers names it.
    - `is_open_clip`: Whether it is the text encoder of version 2.
    """
    if is_open_clip:
        return TEXT_2 + _renamed(key, _OPEN_CLIP)
    return TEXT_1 + key


def _renamed(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _starts(counts: Sequence[int], *, first: int) -> list[int]:
    """The number of each block's first layer, and the one after the last."""
    starts = [first]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts
