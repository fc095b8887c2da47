"""Which models are published as a single file, and the configs that belong to them."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ...diffusion import DDIM, SchedulerConfig
from ..formats import ModelFileError
from ._names import TEXT_1, TEXT_2, UNET, VAE


class Kind(NamedTuple):
    """Holds what is not in a file of weights: configs, as folders of diffusers have.

    **Arguments:**

    - `unet`, `vae`, `text_encoder`, `scheduler`: Parsed configs.
    - `pad_token`: Of the tokenizer.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: dict[str, Any]
    pad_token: str

    @property
    def sampler(self) -> DDIM:
        """Says how it is sampled."""
        return DDIM(SchedulerConfig.from_dict(self.scheduler))


_UNET_1: dict[str, Any] = dict(
    sample_size=64,
    cross_attention_dim=768,
    attention_head_dim=8,
)
_UNET_2: dict[str, Any] = dict(
    sample_size=96,
    cross_attention_dim=1024,
    attention_head_dim=[5, 10, 20, 20],
    use_linear_projection=True,
)
_VAE: dict[str, Any] = dict(
    sample_size=512,
    down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512],
    layers_per_block=2,
)
_TEXT_1: dict[str, Any] = dict(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12
)
_TEXT_2: dict[str, Any] = dict(
    hidden_size=1024,
    intermediate_size=4096,
    # The last of 24 is not used, and not needed.
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
_SCHEDULER: dict[str, Any] = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    clip_sample=False,
    num_train_timesteps=1000,
    set_alpha_to_one=False,
    steps_offset=1,
)
_V_PREDICTION = dict(_SCHEDULER, prediction_type="v_prediction")
_BASE = dict(_UNET_2, sample_size=64)
# As the folders of diffusers that the same weights are published in.
KINDS: Final = {
    "v1": Kind(_UNET_1, _VAE, _TEXT_1, _SCHEDULER, "<|endoftext|>"),
    "v2": Kind(_UNET_2, dict(_VAE, sample_size=768), _TEXT_2, _V_PREDICTION, "!"),
    "v2-base": Kind(_BASE, dict(_VAE, sample_size=768), _TEXT_2, _SCHEDULER, "!"),
    "turbo": Kind(
        _BASE,
        dict(_VAE, sample_size=768),
        _TEXT_2,
        dict(_SCHEDULER, timestep_spacing="trailing"),
        "!",
    ),
}
_WIDTH = re.compile(re.escape(UNET) + r".*\.attn2\.to_k\.weight")
_OTHERS = (
    (r"^conditioner\.embedders\.", "SDXL, which has two text encoders"),
    (r"\.?joint_blocks\.", "Stable Diffusion 3, a transformer"),
    (r"\.?double_blocks\.", "Flux or its like, a transformer"),
    (r"^control_model\.", "a ControlNet"),
)


def check_is_whole(shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    """Raises unless a single file has all networks, and those of a known family.

    **Arguments:**

    - `shapes`: Of its tensors.
    - `name`: Of the file, for error texts.
    """
    for pattern, kind in _OTHERS:
        if any(re.search(pattern, key) for key in shapes):
            raise ModelFileError(
                "`source` must be of a Stable Diffusion 1.x or 2.x model; "
                f"{name!r} looks like {kind}. It is not supported."
            )
    parts = {
        "UNet": any(key.startswith(UNET) for key in shapes),
        "autoencoder": any(key.startswith(VAE) for key in shapes),
        "text encoder": any(key.startswith((TEXT_1, TEXT_2)) for key in shapes),
    }
    missing = [part for part, is_there in parts.items() if not is_there]
    if missing:
        raise ModelFileError(
            f"`source` must hold a whole model: {name!r} has no {', no '.join(missing)}"
            f", whose names begin with {UNET!r}, {VAE!r} and {TEXT_1!r} or {TEXT_2!r}."
        )


def kind_of_file(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    """Recognises what model a whole single file is of: `"v1"` or `"v2"`.

    **Arguments:**

    - `shapes`, `name`: As for `check_is_whole`.
    """
    widths = {shape[-1] for key, shape in shapes.items() if _WIDTH.fullmatch(key)}
    is_2 = any(key.startswith(TEXT_2) for key in shapes)
    expected = KINDS["v2" if is_2 else "v1"].unet["cross_attention_dim"]
    if widths != {expected}:
        raise ModelFileError(
            "`source` must be of a Stable Diffusion 1.x or 2.x model, or `config` name "
            f"a folder with its configs; the UNet of {name!r} attends to "
            f"{sorted(widths)} features of the text, not to {expected}."
        )
    return "v2" if is_2 else "v1"
