"""`config.json`: what is read, what is passed over, and what is refused."""

import pytest

from draftx.models import AutoencoderConfig, CLIPTextConfig, ConfigError, UNetConfig

from ..goldens.make_models import CASES


# As published with Stable Diffusion 1.4.
_SD14_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ],
}


def test_defaults_are_stable_diffusion_1():
    config = UNetConfig.from_dict(_SD14_UNET)
    assert config == UNetConfig()
    assert config.num_heads == (8, 8, 8, 8)
    assert config.downsampling_factor == 8
    assert AutoencoderConfig().downsampling_factor == 8


def test_heads_of_each_level():
    config = UNetConfig.from_dict(CASES["unet_sd2"])
    assert config.num_heads == (1, 2, 3)
    assert config.use_linear_projection


def test_unknown_and_empty_fields_are_passed_over():
    extra = _SD14_UNET | {"a_field_of_the_future": 3, "num_attention_heads": None}
    assert UNetConfig.from_dict(extra) == UNetConfig()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("act_fn", "gelu"),
        ("addition_embed_type", "text_time"),
        ("class_embed_type", "timestep"),
        ("conv_in_kernel", 1),
        ("only_cross_attention", [True, True, True, False]),
        ("resnet_time_scale_shift", "scale_shift"),
        ("time_embedding_type", "fourier"),
    ],
)
def test_another_unet_is_refused(field, value):
    with pytest.raises(ConfigError, match=f"`{field}` of the UNet must be one of"):
        UNetConfig.from_dict(_SD14_UNET | {field: value})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(down_block_types=["DownBlock2D"]), "`down_block_types` must have one"),
        (
            dict(up_block_types=["AttnUpBlock2D"] * 4),
            "`up_block_types` must hold only .* got 'AttnUpBlock2D'",
        ),
        (dict(attention_head_dim=[5, 10]), r"`attention_head_dim` .* got \(5, 10\)"),
        (dict(layers_per_block=[2, 2, 2]), "`layers_per_block` .* for 4 levels"),
    ],
)
def test_fields_that_disagree_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        UNetConfig.from_dict(_SD14_UNET | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(shift_factor=0.1), "`shift_factor` of the autoencoder"),
        (dict(use_quant_conv=False), "`use_quant_conv` of the autoencoder"),
        (dict(up_block_types=["UpDecoderBlock2D"]), "`up_block_types` must be"),
        (
            dict(down_block_types=["AttnDownEncoderBlock2D"] * 3),
            "`down_block_types` must be 'DownEncoderBlock2D' for each",
        ),
    ],
)
def test_another_autoencoder_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        AutoencoderConfig.from_dict(CASES["vae_small"] | changes)


def test_another_activation_is_refused():
    with pytest.raises(ConfigError, match="`hidden_act` of the text encoder .*'relu'"):
        CLIPTextConfig.from_dict(CASES["clip_quick"] | {"hidden_act": "relu"})
