"""LoRA files in every spelling, and the kinds of adapters that are none."""

import re

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_lora, save_lora
from draftx.io import ModelFileError
from draftx.io.pipeline._lora_names import LayerNames, original_names
from draftx.models import iter_layers, map_layers, UNet2DConditionModel, UNetConfig

from .test_lora import assert_same_updates, pair, shaped, TO_Q
from .tiny import random_lora


WORD = ".lora_linear_layer."


@pytest.fixture(scope="session")
def everywhere(pipeline):
    """An adapter on all linear layers and all convolutions."""
    return random_lora(pipeline, mapped=map_layers)


@pytest.fixture(scope="session")
def arrays(everywhere, tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "x.safetensors"
    save_lora(everywhere, path)
    return load_file(path)


def peft(key, adapter=""):
    for side, letter in (("down", "A"), ("up", "B")):
        for word in (WORD, ".lora."):
            key = key.replace(f"{word}{side}.", f".lora_{letter}{adapter}.")
    return key


def bare(key):
    return key.removeprefix("unet.").removeprefix("text_encoder.")


def old(key, processor=".processor"):
    """Of diffusers before 0.17, where attention held its adapters itself."""
    key = key.replace(WORD, ".lora.")
    key = re.sub(r"(attn\d)\.to_([qkv])\.lora", rf"\1{processor}.to_\2_lora", key)
    key = re.sub(r"(attn\d)\.to_out\.0\.lora", rf"\1{processor}.to_out_lora", key)
    return re.sub(r"self_attn\.(q|k|v|out)_proj\.lora", r"self_attn.to_\1_lora", key)


def kohya(key, text="lora_te_"):
    layer, side = key.replace(WORD, ".lora.").split(".lora.")
    prefix = "lora_unet_" if layer.startswith("unet.") else text
    return f"{prefix}{bare(layer).replace('.', '_')}.lora_{side}"


# Of the tiny UNet: a level with attention and one without, one block to a level. Read
# off `openaimodel.py` of latent diffusion, whose blocks are numbered through.
ORIGINAL = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
IN_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original(key, prefix="unet."):
    """As in the code that the models were trained with."""
    if not key.startswith("unet."):
        return key
    name = bare(key)
    for theirs, ours in sorted(ORIGINAL.items(), key=lambda item: -len(item[0])):
        if name.startswith(f"{theirs}."):
            name = ours + name.removeprefix(theirs)
            break
    for theirs, ours in IN_RESNET.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    return prefix + name


SPELLINGS = {
    "peft": peft,
    "peft around the pipeline": lambda k: "base_model.model." + peft(k),
    "peft around each model": lambda k: peft(k).replace(".", ".base_model.model.", 1),
    "peft of a model alone": lambda k: "base_model.model." + peft(bare(k)),
    "peft without a prefix": lambda k: peft(bare(k)),
    "peft, the default adapter": lambda k: peft(k, ".default"),
    "peft, another adapter": lambda k: peft(k, ".default_0"),
    "diffusers without a prefix": lambda k: bare(k).replace(WORD, ".lora."),
    "flat text encoder": lambda k: k.replace(".text_model.", "."),
    "flat text encoder alone": lambda k: peft(bare(k)).replace("text_model.", ""),
    "one word for both": lambda k: k.replace(WORD, ".lora."),
    "diffusers 0.15": old,
    "diffusers 0.15, unet alone": lambda k: bare(old(k)),
    "diffusers 0.12": lambda k: old(k, ""),
    "kohya": kohya,
    "kohya of sdxl's first encoder": lambda k: kohya(k, "lora_te1_"),
    "kohya without a prefix": lambda k: kohya(k).removeprefix("lora_unet_"),
    "kohya without any prefix": lambda k: (
        kohya(k).removeprefix("lora_unet_").removeprefix("lora_te_")
    ),
    "kohya, flat text encoder": lambda k: kohya(k).replace("text_model_", ""),
    "kohya, original blocks": lambda k: kohya(original(k)),
    "original blocks": lambda k: peft(original(k, "diffusion_model.")),
    "original blocks, whole": lambda k: original(k, "model.diffusion_model."),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(pipeline, everywhere, arrays, tmp_path, name):
    renamed = {SPELLINGS[name](key): array for key, array in arrays.items()}
    assert len(renamed) == len(arrays)
    save_file(renamed, tmp_path / "x.safetensors")
    assert_same_updates(load_lora(pipeline, tmp_path / "x.safetensors"), everywhere)


def names_of(config):
    unet = eqx.filter_eval_shape(UNet2DConditionModel, config, key=jr.key(0))
    return [f"unet.{name}" for name, _ in iter_layers(unet)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_input_blocks_4_0_skip_connection", ".1.resnets.0.conv_shortcut"),
        ("lora_unet_input_blocks_8_1_proj_in", "down_blocks.2.attentions.1.proj_in"),
        ("lora_unet_input_blocks_11_0_in_layers_2", "down_blocks.3.resnets.1.conv1"),
        ("lora_unet_output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
        ("lora_unet_output_blocks_11_1_proj_out", "up_blocks.3.attentions.2.proj_out"),
        ("lora_unet_time_embed_0", "time_embedding.linear_1"),
        ("lora_unet_out_2", "conv_out"),
    ],
)
def test_blocks_of_stable_diffusion_1(name, expected):
    found = LayerNames(names_of(UNetConfig())).find(name)
    assert found is not None
    assert found.endswith(expected)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers_per_block", [1, 2])
def test_original_names_are_those_of_diffusers(layers_per_block):
    """Against diffusers' converter of whole checkpoints, which knows every layer."""
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = UNetConfig(layers_per_block=layers_per_block)
    names = [name.removeprefix("unet.") for name in names_of(config)]
    checkpoint = {
        f"model.diffusion_model.{theirs}.{array}": np.asarray(name)
        for name, theirs in original_names(names).items()
        for array in ("weight", "bias")
    }
    options = dict(layers_per_block=layers_per_block, class_embed_type=None)
    converted = utils.convert_ldm_unet_checkpoint(checkpoint, options)
    found = {k: str(v) for k, v in converted.items() if k.endswith(".weight")}
    assert found == {f"{name}.weight": name for name in names}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_kohya_names_are_those_of_diffusers():
    """Against diffusers' converters of LoRA files with the original blocks.

    They are made for SDXL: fewer than ten blocks, and attention before an upsampling.
    """
    torch = pytest.importorskip("torch")
    convert = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    to_peft = pytest.importorskip("diffusers.utils").convert_unet_state_dict_to_peft
    config = UNetConfig(
        block_out_channels=(32, 32, 32),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    )
    names = [name.removeprefix("unet.") for name in names_of(config)]
    layers = LayerNames(names_of(config))
    state, expected = {}, {}
    for i, (name, theirs) in enumerate(original_names(names).items()):
        spelled = "lora_unet_" + theirs.replace(".", "_")
        assert layers.find(spelled) == f"unet.{name}"
        expected[f"unet.{name}.lora_A.weight"] = float(i)
        for side in ("down", "up"):
            state[f"{spelled}.lora_{side}.weight"] = torch.tensor([float(i)])
    state = convert._maybe_map_sgm_blocks_to_diffusers(state, config)
    state, _ = convert._convert_non_diffusers_lora_to_diffusers(state)
    found = {k: v.item() for k, v in to_peft(state).items() if "lora_A" in k}
    assert found == expected


KINDS = {
    f"{TO_Q}.dora_scale": "it is a DoRA.*dora_scale",
    f"{TO_Q}.lora_magnitude_vector": "it is a DoRA",
    f"{TO_Q}.hada_w1_a": "it is a LoHa",
    f"{TO_Q}.lokr_w1": "it is a LoKr",
    f"{TO_Q}.lora_mid.weight": "it is a LoCon with a Tucker decomposition",
    f"{TO_Q}.oft_blocks": "it is an OFT",
    f"{TO_Q}.oft_R.default.weight": "it is an OFT",
    f"{TO_Q}.boft_R": "it is a BOFT",
    f"{TO_Q}.a1.weight": "it is a GLoRA",
    f"{TO_Q}.on_input": r"it is an \(IA\)³",
    f"{TO_Q}.ia3_l": r"it is an \(IA\)³",
    f"{TO_Q}.diff": r"full differences of weights, `\.diff`",
    f"{TO_Q}.diff_b": r"full differences of weights, `\.diff`",
    "unet.conv_norm_out.w_norm": "it is an adapter of norms",
    f"{TO_Q}.scalar": "a trained scalar",
    f"{TO_Q}.vera_lambda_b": "it is a VeRA",
    f"{TO_Q}.fourierft_spectrum": "it is a FourierFT",
    f"{TO_Q}.hra_u": "it is an HRA",
    "text_encoder.embeddings.lora_embedding_A": "a LoRA of embeddings",
    f"{TO_Q}.lora_B.bias": "a LoRA with biases",
    f"{TO_Q}.lora_B.default.bias": "a LoRA with biases",
    "unet:0:up": "numbers its layers",
    "mid_block.attn2.processor.to_k_custom_diffusion.weight": "a Custom Diffusion",
    "image_proj.proj.weight": r"of one embedding, which `draftx\.io\.load_image_tok",
    "image_proj.norm.weight": "an IP-Adapter of another form, which draftx does not",
    "ip_adapter.1.to_k_ip.weight": "it is an IP-Adapter of another form",
}


@pytest.mark.parametrize("key", KINDS)
def test_other_kinds_are_named(pipeline, tmp_path, key):
    path = tmp_path / "x.safetensors"
    save_file(pair() | {key: shaped(8)}, path)
    with pytest.raises(ModelFileError, match=KINDS[key]) as error:
        load_lora(pipeline, path)
    assert key in str(error.value)


def test_two_adapters_or_two_names_are_not_one(pipeline, tmp_path):
    path = tmp_path / "x.safetensors"
    first = pair(sides=(".lora_A.first", ".lora_B.first"))
    save_file(first | pair(sides=(".lora_A.second", ".lora_B.second")), path)
    with pytest.raises(ModelFileError, match=r"one adapter; it holds \['first', 'sec"):
        load_lora(pipeline, path)
    save_file(first | pair(TO_Q.removeprefix("unet.")), path)
    with pytest.raises(ModelFileError, match="2 tensors are there twice"):
        load_lora(pipeline, path)
