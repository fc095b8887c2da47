"""Parity with diffusers and transformers: values, and gradients of the inputs."""

import pathlib

import numpy as np
import pytest

from ..goldens import make_models
from .parity import check


_GOLDENS = pathlib.Path(make_models.__file__).parent


@pytest.mark.parametrize("name", sorted(make_models.CASES))
def test_matches_golden(name):
    with np.load(_GOLDENS / f"{name}.npz") as file:
        check(name, dict(file))


def _with(name, **changes):
    return make_models.CASES[name] | changes


# Architectures beyond the stored ones. Names say what is odd.
_LIVE = {
    "unet_one_level": _with(
        "unet_sd2",
        attention_head_dim=1,
        block_out_channels=[8],
        down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"],
    ),
    "unet_two_levels": _with(
        "unet_sd2",
        attention_head_dim=2,
        block_out_channels=[4, 8],
        down_block_types=["CrossAttnDownBlock2D"] * 2,
        norm_num_groups=4,
        transformer_layers_per_block=[1, 2],
        up_block_types=["CrossAttnUpBlock2D"] * 2,
    ),
    "unet_layers_per_level": _with(
        "unet_sd2", layers_per_block=[2, 1, 1], transformer_layers_per_block=[2, 1, 1]
    ),
    "unet_no_attention_but_mid": _with(
        "unet_sd1",
        block_out_channels=[4, 8],
        down_block_types=["DownBlock2D"] * 2,
        layers_per_block=1,
        norm_num_groups=4,
        up_block_types=["UpBlock2D"] * 2,
    ),
    "vae_deep": _with(
        "vae_small",
        block_out_channels=[4, 4, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 4,
        layers_per_block=2,
        up_block_types=["UpDecoderBlock2D"] * 4,
    ),
    "unet_that_sees_an_image": _with("unet_sd2", in_channels=8),
    "clip_deep": _with("clip_quick", num_attention_heads=4, num_hidden_layers=4),
}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(_LIVE))
def test_matches_live(name):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    golden = make_models.reference(name, _LIVE[name])
    check(name, golden, parameters=True)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["unet_sd1", "vae_small", "clip_quick"])
def test_goldens_are_what_is_installed(name):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    live = make_models.reference(name, make_models.CASES[name])
    with np.load(_GOLDENS / f"{name}.npz") as file:
        for key in file:
            if key in ("config", "shapes"):
                assert str(file[key]) == str(live[key])
            else:
                np.testing.assert_allclose(file[key], live[key], rtol=1e-4, atol=1e-5)
