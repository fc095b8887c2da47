"""What `against_pytorch.py` computes: networks, a chain, what is differentiated."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    set_alpha_to_one=False,
    clip_sample=False,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed: `k` differentiated steps (0 samples), `draws` more of the last
    step (DRaFT-LV)."""

    name: str
    k: int
    draws: int = 0


@dataclasses.dataclass(frozen=True)
class Setting:
    """Networks as diffusers' configs, and the chain. Without `vae` the reward is of the
    latents."""

    unet: dict[str, Any]
    vae: dict[str, Any] | None
    text: dict[str, Any]
    steps: int
    guidance: float
    batch: int
    rank: int
    dtype: str
    reward: Callable[[Any], Any]
    scheduler: dict[str, Any]

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return (self.batch, self.unet["sample_size"], self.unet["sample_size"], 4)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Arrays that both sides are given: channels last, float32."""

    latents: np.ndarray
    negative: np.ndarray
    positive: np.ndarray
    noises: np.ndarray


def reward(images):
    """Smooth, and the same expression for arrays of JAX and of PyTorch."""
    return -((images - 0.3) ** 2 * (1.0 + 0.1 * images)).mean((1, 2, 3))


def _setting(args, *, steps: int, dtype: str, **networks: Any) -> Setting:
    """Networks, and a chain with what `args` asks for."""
    return Setting(
        **networks,
        steps=args.num_inference_steps or steps,
        guidance=7.5,
        batch=args.batch,
        rank=args.rank,
        dtype=args.dtype or dtype,
        reward=reward,
        scheduler=SCHEDULER,
    )


def small(args) -> Setting:
    vae = dict(
        sample_size=32,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[32, 64],
        layers_per_block=1,
        norm_num_groups=8,
    )
    return _setting(
        args,
        unet=dict(
            sample_size=16,
            block_out_channels=[32, 64, 128, 128],
            layers_per_block=2,
            cross_attention_dim=64,
            attention_head_dim=4,  # The number of heads.
            norm_num_groups=8,
        ),
        vae=vae if args.reward == "pixels" else None,
        text=dict(
            vocab_size=1024,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
        ),
        steps=6,
        dtype="float32",
    )


def sd14(args) -> Setting:
    vae = dict(
        sample_size=512,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
    )
    return _setting(
        args,
        unet=dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        vae=None if args.reward == "latents" else vae,
        text=dict(max_position_embeddings=77, hidden_size=768),
        steps=50,
        dtype="bfloat16",
    )


CONFIGS = {
    "small": (small, ["sample", "draft-1", "draft-3", "draft"]),
    "sd14": (sd14, ["sample", "draft-1", "draft-10", "draft", "draft-lv"]),
}


def case_of(name: str, setting: Setting) -> Case:
    if name in ("sample", "draft", "draft-lv"):
        k = {"sample": 0, "draft": setting.steps, "draft-lv": 1}[name]
        return Case(name, k, 2 if name == "draft-lv" else 0)
    return Case(name, int(name.removeprefix("draft-")))
