"""`config.json`: what is read, what is passed over, and what is refused."""

import copy
import dataclasses
import inspect

import pytest

from draftx.models import (
    AutoencoderConfig,
    CLIPConfig,
    CLIPTextConfig,
    ConfigError,
    UNetConfig,
)

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


# Of its autoencoder, and of CLIP ViT-L/14's text tower.
_SD14_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.2.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_SD14_TEXT = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
_READ = {
    "unet": (UNetConfig.from_dict, _SD14_UNET, UNetConfig()),
    "vae": (AutoencoderConfig.from_dict, _SD14_VAE, AutoencoderConfig()),
    "text": (CLIPTextConfig.from_dict, _SD14_TEXT, CLIPTextConfig()),
}
# Every field of diffusers' UNet: ways to say what Stable Diffusion 1.4 is, and other
# values, which are not implemented (none where any value is read or passed over).
_UNET_WORDS = {
    "sample_size": (
        [64, 64.0, [64, 64], [64.0, 64], None],
        [64.5, True, "64", {"height": 64}, [64, "64"], [[64], [96]], float("nan")],
    ),
    "in_channels": ([4, 4.0, None, [4]], ["4", 4.5, False]),
    "out_channels": ([4, None, [4]], []),
    "center_input_sample": ([False, None, 0, [False]], [True]),
    "flip_sin_to_cos": ([True], []),
    "freq_shift": ([0, 0.0, None], []),
    "down_block_types": (
        [None, ["UNetResCrossAttnDownBlock2D"] * 3 + ["UNetResDownBlock2D"]],
        [["DownBlock2D"], ["AttnDownBlock2D"] * 4],
    ),
    "mid_block_type": (
        ["UNetMidBlock2DCrossAttn"],
        ["UNetMidBlock2D", "UNetMidBlock2DSimpleCrossAttn", None],
    ),
    "up_block_types": (
        [None, ["UNetResUpBlock2D"] + ["UNetResCrossAttnUpBlock2D"] * 3],
        [["UpBlock2D"]],
    ),
    "only_cross_attention": (
        [False, None, [False] * 4],
        [True, [True, True, True, False], [False] * 3],
    ),
    "block_out_channels": ([None], []),
    "layers_per_block": ([2, None, [2] * 4], [[2] * 3, [[2, 2]] * 4]),
    "downsample_padding": ([1, None], [0]),
    "mid_block_scale_factor": ([1, 1.0, None], [2.0]),
    "dropout": ([0.0, 0.1, None, [0.0] * 4], []),
    "act_fn": (["silu", "swish", "SiLU", None], ["gelu"]),
    "norm_num_groups": ([32, [32] * 4], [None]),
    "norm_eps": ([1e-5, None], ["1e-5", True, [1e-5, 1e-6]]),
    "cross_attention_dim": ([768, [768] * 4], [[768] * 3, [768, 768, 1024, 768]]),
    "transformer_layers_per_block": (
        [1, None, [1] * 4],
        [[1] * 3, [[1, 1], [1, 1], [1, 1], [1, 1]]],
    ),
    "reverse_transformer_layers_per_block": ([None, [1] * 4], [[2, 1, 1, 1], [1]]),
    "encoder_hid_dim": ([None], [768]),
    "encoder_hid_dim_type": ([None], ["text_proj"]),
    "attention_head_dim": ([8, None, [8] * 4], [[8, 8]]),
    "num_attention_heads": ([None, [None] * 4], [[8, 8]]),
    "dual_cross_attention": ([False, None, [False] * 4], [True]),
    "use_linear_projection": ([False, None], []),
    "class_embed_type": ([None, [None]], ["timestep"]),
    "addition_embed_type": ([None], ["text_time"]),
    "addition_time_embed_dim": ([None, 256], []),
    "num_class_embeds": ([None], [1000]),
    "upcast_attention": ([False, None, True, [False] * 4], []),
    "resnet_time_scale_shift": (["default", None], ["scale_shift"]),
    "resnet_skip_time_act": ([False, None], [True]),
    "resnet_out_scale_factor": ([1.0, 1, None], [2.0]),
    "time_embedding_type": (["positional", None], ["fourier"]),
    "time_embedding_dim": ([None, 1280], [512]),
    "time_embedding_act_fn": ([None], ["silu"]),
    "timestep_post_act": ([None], ["silu"]),
    "time_cond_proj_dim": ([None], [256]),
    "conv_in_kernel": ([3, None, [3, 3]], [1, [3, 1]]),
    "conv_out_kernel": ([3, None, [3, 3]], [1]),
    "projection_class_embeddings_input_dim": ([None, 2816], []),
    "attention_type": (["default", None], ["gated"]),
    "class_embeddings_concat": ([False, None], [True]),
    "mid_block_only_cross_attention": ([None, False], [True]),
    "cross_attention_norm": ([None], ["layer_norm"]),
    "addition_embed_type_num_heads": ([64, None], []),
}
_VAE_WORDS = {
    "in_channels": ([3, None, [3]], []),
    "out_channels": ([3, None], []),
    "down_block_types": (
        [["DownEncoderBlock2D"] * 4, ["UNetResDownEncoderBlock2D"] * 4],
        [["DownEncoderBlock2D"]],
    ),
    "up_block_types": ([["UpDecoderBlock2D"] * 4], [["UpDecoderBlock2D"]]),
    "block_out_channels": ([[128, 256, 512, 512]], []),
    "layers_per_block": ([2, [2] * 4], []),
    "act_fn": (["silu", "swish", "SiLU", None], ["gelu"]),
    "latent_channels": ([4, None], []),
    "norm_num_groups": ([32, None], []),
    "sample_size": ([512, 512.0, [512.0, 512]], ["512", True, 0.5, {}]),
    "scaling_factor": ([0.18215, None], ["0.18215", True]),
    "shift_factor": ([None, 0, 0.0], [0.1]),
    "latents_mean": ([None], [[0.0] * 4]),
    "latents_std": ([None], [[1.0] * 4]),
    "use_quant_conv": ([True], [False, None]),
    "use_post_quant_conv": ([True], [False, None]),
    "mid_block_add_attention": ([True, [True]], [False, None]),
}
_TEXT_WORDS = {
    "vocab_size": ([49408, None], []),
    "hidden_act": (["quick_gelu", None], ["relu"]),
    "layer_norm_eps": ([1e-5, None], []),
    "max_position_embeddings": ([77, None], []),
    "num_hidden_layers": ([12, 12.0, None], ["12", 12.5]),
    # Of training: a model that is loaded evaluates.
    "attention_dropout": ([0.0, 0.1, None], []),
    "dropout": ([0.0, 0.1, None], []),
    "use_attention_mask": ([False, None], [True]),
    "text_config": ([None], []),
}
_WORDS = {"unet": _UNET_WORDS, "vae": _VAE_WORDS, "text": _TEXT_WORDS}


def _said(side):
    return [
        pytest.param(model, field, value, id=f"{model}-{field}-{value}")
        for model, table in _WORDS.items()
        for field, words in table.items()
        for value in words[side]
    ]


@pytest.mark.parametrize(("model", "field", "value"), _said(0))
def test_other_words_for_the_same_are_read(model, field, value):
    read, published, expected = _READ[model]
    assert read(published | {field: value}) == expected


@pytest.mark.parametrize(("model", "field", "value"), _said(1))
def test_what_means_something_else_is_refused_by_its_name(model, field, value):
    read, published, _ = _READ[model]
    with pytest.raises(ConfigError, match=f"^`{field}` "):
        read(published | {field: value})


@pytest.mark.oracle
def test_the_tables_have_all_fields_of_diffusers_live():
    diffusers = pytest.importorskip("diffusers")
    for words, cls in (
        (_UNET_WORDS, diffusers.UNet2DConditionModel),
        (_VAE_WORDS, diffusers.AutoencoderKL),
    ):
        fields = set(inspect.signature(cls.__init__).parameters)
        # How a decoder in float16 is run has tests of its own.
        assert fields - {"self", "force_upcast"} == words.keys()


def test_null_at_a_switch_is_off():
    # Of a file without the field it is on.
    assert UNetConfig.from_dict({}).flip_sin_to_cos
    assert not UNetConfig.from_dict({"flip_sin_to_cos": None}).flip_sin_to_cos


def test_missing_fields_have_the_values_of_the_library_that_reads_them():
    unet = UNetConfig.from_dict({})
    assert unet == dataclasses.replace(UNetConfig(), cross_attention_dim=1280)
    vae = AutoencoderConfig.from_dict({})
    assert (vae.block_out_channels, vae.layers_per_block) == ((64,), 1)
    text = CLIPTextConfig.from_dict({})
    assert (text.hidden_size, text.num_attention_heads) == (512, 8)


@pytest.mark.oracle
def test_missing_fields_are_those_of_the_libraries_live():
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    for ours, theirs in (
        (UNetConfig, diffusers.UNet2DConditionModel),
        (AutoencoderConfig, diffusers.AutoencoderKL),
        (CLIPTextConfig, transformers.CLIPTextConfig),
    ):
        read, signature = ours.from_dict({}), inspect.signature(theirs)
        for field in dataclasses.fields(ours):
            # A UNet without a size draws nothing with diffusers.
            if field.name != "sample_size" or ours is not UNetConfig:
                default = signature.parameters[field.name].default
                assert getattr(read, field.name) == default, field.name


def test_text_towers_are_read_from_files_of_both():
    both = {"model_type": "clip", "text_config": _SD14_TEXT | {"hidden_size": 96}}
    assert CLIPTextConfig.from_dict(both) == CLIPTextConfig(hidden_size=96)


# A file of both of CLIP's towers, and what it says of `text.hidden_size`,
# `text.hidden_act` and `vision.patch_size`.
_TOWERS = [
    (
        dict(text_config=dict(hidden_size=96), vision_config=dict(image_size=64)),
        (96, "quick_gelu", 32),
    ),
    (
        dict(
            text_config=dict(hidden_size=96, hidden_act="gelu", eos_token_id=2),
            vision_config=dict(image_size=64, patch_size=8, hidden_act="gelu"),
            text_config_dict=dict(hidden_size=48, num_hidden_layers=3),
            vision_config_dict=dict(patch_size=16),
        ),
        (48, "quick_gelu", 16),
    ),
    (
        dict(
            text_config=dict(hidden_size=96, hidden_act="gelu"),
            text_config_dict=None,
            vision_config_dict=dict(patch_size=8, hidden_size=36),
        ),
        (96, "gelu", 8),
    ),
]


@pytest.mark.parametrize(("towers", "expected"), _TOWERS)
def test_the_older_name_of_a_tower_wins_over_the_newer(towers, expected):
    read = CLIPConfig.from_dict(towers)
    actual = (read.text.hidden_size, read.text.hidden_act, read.vision.patch_size)
    assert actual == expected


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("towers", [towers for towers, _ in _TOWERS])
def test_towers_are_those_of_transformers_live(towers):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPConfig.from_dict(copy.deepcopy(towers))
    ours = CLIPConfig.from_dict(towers)
    assert ours.eos_token_id == theirs.text_config.eos_token_id
    for read, judge in (
        (ours.text, theirs.text_config),
        (ours.vision, theirs.vision_config),
    ):
        fields = dataclasses.asdict(read)
        assert fields == {field: getattr(judge, field) for field in fields}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (dict(projection_dim="512"), "`projection_dim` of CLIP must be a whole"),
        (dict(text_config=dict(eos_token_id=True)), "`eos_token_id` of CLIP must"),
        (
            dict(text_config=dict(hidden_size="96")),
            "`hidden_size` of CLIP's text tower",
        ),
        (dict(vision_config=dict(patch_size=8.5)), "`patch_size` of CLIP's vision"),
    ],
)
def test_fields_of_towers_have_their_types(said, text):
    towers = dict(text_config={}, vision_config={})
    with pytest.raises(ConfigError, match=text):
        CLIPConfig.from_dict(towers | said)
    assert CLIPConfig.from_dict(towers | dict(projection_dim=64.0)).projection_dim == 64


def test_sizes_may_be_pairs():
    pair = UNetConfig.from_dict(_SD14_UNET | {"sample_size": [64, 96]})
    assert (pair.sample_size, pair.latent_size) == ((64, 96), (64, 96))
    assert UNetConfig().latent_size == (64, 64)
    for size in ([64], [64, 96, 3], 0, [64, -96]):
        with pytest.raises(ConfigError, match="`sample_size` must be one positive"):
            UNetConfig.from_dict(_SD14_UNET | {"sample_size": size})


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


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="must divide `hidden_size`; got 7 and 768"):
        CLIPTextConfig(num_attention_heads=7)
