"""Adapters in the formats of other programs: names, scales, headers, conversions."""

import gzip
import hashlib
import json
from typing import Any

import jax
import jax.random as jr
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from draftx import load_lora, save_lora
from draftx.io import convert_lora_file, describe_lora
from draftx.lora import add_lora, iter_lora
from draftx.models import map_layers

from .test_lora import assert_same_updates, pair, TO_Q, updates
from .test_manifests import FOLDER, manifest
from .tiny import random_lora


FORMATS = ("diffusers", "kohya", "peft")
ABOUT = {
    "base_model": "some/model",
    "license": "mit",
    "method": "draft-lv",
    "reward": "compressibility=1",
    "trigger_words": "a fox",
}


def target(folder, format):
    return folder / ("adapter" if format == "peft" else f"{format}.safetensors")


def header(path):
    with safe_open(path, "np") as file:
        return file.metadata()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("of", ["scaled_everywhere", "uneven"])
def test_round_trip(pipeline, tmp_path, request, format, of):
    adapted = request.getfixturevalue(of)
    path = target(tmp_path, format)
    for _ in range(2):  # What is there already is replaced.
        save_lora(adapted, path, format=format, metadata=ABOUT)
        assert_same_updates(load_lora(pipeline, path), adapted)
    assert list(tmp_path.iterdir()) == [path]
    about = describe_lora(path)
    assert set(about["scales"]) == {1.0}
    assert (
        about["notes"].items()
        > {name: text for name, text in ABOUT.items() if name != "base_model"}.items()
    )
    assert "some/model" in about["made_for"]


def test_kohya_names_are_those_of_diffusers_converter(like_sd1, tmp_path):
    """Every layer of Stable Diffusion 1.4 that can be adapted."""
    path = tmp_path / "x.safetensors"
    save_lora(random_lora(like_sd1, 1, mapped=map_layers), path, format="kohya")
    text = gzip.decompress((FOLDER / "kohya_names.json.gz").read_bytes())
    golden = json.loads(text)
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert load_file(path).keys() == {
        f"{name}.{end}" for name in golden for end in ends
    }
    # In the published models those are the weights that are no vectors.
    published = {
        f"{model}.{key.removesuffix('.weight')}"
        for model, prefix in (("unet", ""), ("text_encoder", "text_model."))
        for key in (f"{prefix}{k}" for k, s in manifest(model).items() if len(s) > 1)
        if "embeddings." not in key
    }
    assert set(golden.values()) == published
    assert len(published) == 354
    # And each means the same layer: back, without the model.
    convert_lora_file(path, tmp_path / "back.safetensors", "diffusers")
    layers = {k.split(".lora")[0] for k in load_file(tmp_path / "back.safetensors")}
    assert layers == published


# What kohya's scripts adapt of Stable Diffusion 1.x: all linear layers and 1x1
# convolutions of transformers; with `conv_dim` also all layers of residual blocks and
# what changes the resolution. A module's name has underscores for its dots.
_IN_TRANSFORMER = (
    ("proj_in", "proj_out", "transformer_blocks_0_ff_net_0_proj")
    + ("transformer_blocks_0_ff_net_2",)
    + tuple(
        f"transformer_blocks_0_attn{i}_to_{layer}"
        for i in (1, 2)
        for layer in ("q", "k", "v", "out_0")
    )
)
_IN_TEXT_LAYER = ("mlp_fc1", "mlp_fc2") + tuple(
    f"self_attn_{layer}_proj" for layer in ("q", "k", "v", "out")
)
_PLACES = (
    [f"down_blocks_{i}_attentions_{j}" for i in (0, 1, 2) for j in (0, 1)]
    + ["mid_block_attentions_0"]
    + [f"up_blocks_{i}_attentions_{j}" for i in (1, 2, 3) for j in (0, 1, 2)]
)
_RESNETS = (
    [f"down_blocks_{i}_resnets_{j}" for i in range(4) for j in (0, 1)]
    + [f"mid_block_resnets_{j}" for j in (0, 1)]
    + [f"up_blocks_{i}_resnets_{j}" for i in range(4) for j in (0, 1, 2)]
)
# Where the number of channels changes.
_SHORTCUTS = ["down_blocks_1_resnets_0", "down_blocks_2_resnets_0", *_RESNETS[10:]]
KOHYA = {
    "networks.lora": {f"lora_unet_{p}_{n}" for p in _PLACES for n in _IN_TRANSFORMER}
    | {
        f"lora_te_text_model_encoder_layers_{i}_{n}"
        for i in range(12)
        for n in _IN_TEXT_LAYER
    },
    "conv_dim": {
        f"lora_unet_{p}_{n}"
        for p in _RESNETS
        for n in ("conv1", "conv2", "time_emb_proj")
    }
    | {f"lora_unet_{p}_conv_shortcut" for p in _SHORTCUTS}
    | {f"lora_unet_down_blocks_{i}_downsamplers_0_conv" for i in (0, 1, 2)}
    | {f"lora_unet_up_blocks_{i}_upsamplers_0_conv" for i in (0, 1, 2)},
    # Read by the web UI, ComfyUI and diffusers; its own scripts pass them over.
    "none": {
        f"lora_unet_{n}"
        for n in ("conv_in", "conv_out")
        + ("time_embedding_linear_1", "time_embedding_linear_2")
    },
}


def _kohya_layers(path):
    return {key.split(".")[0] for key in load_file(path)}


def test_kohya_names_are_those_of_its_scripts(like_sd1, tmp_path):
    path = tmp_path / "x.safetensors"
    # As its scripts count them when a training starts.
    counts = {name: len(layers) for name, layers in KOHYA.items()}
    assert counts == {"networks.lora": 192 + 72, "conv_dim": 86, "none": 4}
    save_lora(random_lora(like_sd1, 1, mapped=map_layers), path, format="kohya")
    assert _kohya_layers(path) == set().union(*KOHYA.values())
    # Of what is adapted if nothing is said its scripts read all.
    save_lora(add_lora(like_sd1, rank=1, key=jr.key(0)), path, format="kohya")
    assert len(_kohya_layers(path)) == 16 * 6
    assert _kohya_layers(path) < KOHYA["networks.lora"]


def test_the_alpha_of_kohya_is_the_rank(scaled_everywhere, uneven, tmp_path):
    path = tmp_path / "x.safetensors"
    save_lora(scaled_everywhere, path, format="kohya")
    arrays = load_file(path)
    alphas = {k: a for k, a in arrays.items() if k.endswith(".alpha")}
    assert len(alphas) == len([*iter_lora(scaled_everywhere)])
    assert {(a.shape, a.dtype, float(a)) for a in alphas.values()} == {
        ((), np.dtype(np.float32), 3.0)
    }
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert arrays[f"{conv}.lora_down.weight"].shape == (3, 8, 3, 3)
    assert arrays[f"{conv}.lora_up.weight"].shape == (8, 3, 1, 1)
    # Where diffusers would give attention the alpha of others there is none.
    save_lora(uneven, path, format="kohya")
    assert not any(key.endswith(".alpha") for key in load_file(path))
    assert header(path)["ss_network_dim"] == "Dynamic"
    assert header(path)["draftx_rank"] == "1 to 3"


def test_what_the_header_of_kohya_says(scaled_everywhere, tmp_path):
    path = tmp_path / "fox.safetensors"
    save_lora(scaled_everywhere, path, format="kohya", metadata=ABOUT)
    found = header(path)
    content = path.read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :])
    training = {k: v for k, v in found.items() if k.startswith("ss_")}
    old = save(load_file(path), training)[0x100000:0x110000]
    assert {k: v for k, v in found.items() if not k.startswith("draftx_")} == {
        "format": "pt",
        **ABOUT,
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "3.0",
        "ss_output_name": "fox",
        "ss_sd_model_name": "some/model",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "fox",
        "modelspec.license": "mit",
        "modelspec.trigger_phrase": "a fox",
        "modelspec.prediction_type": "epsilon",
        "modelspec.resolution": "16x16",
        "modelspec.hash_sha256": f"0x{digest.hexdigest()}",
        "sshs_model_hash": digest.hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(old).hexdigest()[:8],
    }


@pytest.mark.parametrize(
    ("width", "version", "is_2", "architecture"),
    [
        (768, "sd_v1", "False", "stable-diffusion-v1/lora"),
        (1024, "sd_v2", "True", "stable-diffusion-v2-512/lora"),
    ],
)
def test_the_family_is_told_by_its_width(tmp_path, width, version, is_2, architecture):
    save_file(pair("unet.mid_block.attn2.to_k", features=(width, 8)), tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "x.safetensors")
    out = tmp_path / "y.safetensors"
    convert_lora_file(tmp_path / "x.safetensors", out, "kohya")
    found = header(out)
    assert found["ss_base_model_version"] == version
    assert found["ss_v2"] == is_2
    assert found["modelspec.architecture"] == architecture


def test_the_folder_of_peft(pipeline, uneven, tmp_path):
    folder = tmp_path / "adapter"
    save_lora(uneven, folder, format="peft", metadata=ABOUT)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
    own = ["adapter_config.json", "adapter_model.safetensors"]
    assert files == [*own, *(f"text_encoder/{name}" for name in own)]
    config = json.loads((folder / own[0]).read_text())
    assert (config["r"], config["lora_alpha"]) == (1, 1)
    assert config["base_model_name_or_path"] == "some/model"
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert set(config["rank_pattern"].values()) == {3}
    name = TO_Q.removeprefix("unet.")
    assert name in config["rank_pattern"]
    arrays = load_file(folder / own[1])
    assert arrays[f"base_model.model.{name}.lora_A.weight"].shape == (3, 8)
    assert {k.split(".lora_")[0].removeprefix("base_model.model.") for k in arrays} == {
        *config["target_modules"]
    }
    # As PEFT's example of training both has it.
    (folder / "unet").mkdir()
    for file in own:
        (folder / file).rename(folder / "unet" / file)
    assert_same_updates(load_lora(pipeline, folder), uneven)
    # Of the UNet alone there is nothing else, and of the text encoder alone neither.
    for model, inside in (("unet.", "."), ("text_encoder.", "text_encoder")):
        part = map_layers(
            lambda name, layer, model=model: (
                layer if name.startswith(model) else getattr(layer, "base", layer)
            ),
            uneven,
        )
        out = tmp_path / model
        save_lora(part, out, format="peft")
        assert {p.parent for p in out.rglob("*.*")} == {out / inside}
        assert_same_updates(load_lora(pipeline, out), part)


@pytest.mark.usefixtures("without_types")
def test_where_nothing_can_be_written(scaled_everywhere, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").write_text("mine")
    wrong: Any
    for path, wrong, message in (
        (tmp_path / "x", "kohya", "`path` must end in .safetensors, by whose name"),
        (tmp_path / "x.safetensors", "peft", "`path` must be a folder of the adapter"),
        (there, "peft", "`path` must be a folder of the adapter alone"),
        (there / "notes.txt", "peft", "is a file or has other things in it"),
        (tmp_path / "x.safetensors", "lora", "`format` must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            save_lora(scaled_everywhere, path, format=wrong)
    for wrong, message in (
        ({"steps": 3}, "must be of texts by name.*got 3 for 'steps'"),
        ({"ss_network_alpha": "8"}, "must not have 'ss_network_alpha'"),
        ({"lora_adapter_metadata": "{}"}, "must not have 'lora_adapter"),
    ):
        with pytest.raises(ValueError, match=message):
            save_lora(scaled_everywhere, tmp_path / "x.safetensors", metadata=wrong)
    diverged = jax.tree.map(
        lambda x: np.full(x.shape, np.nan, x.dtype), scaled_everywhere
    )
    for format in FORMATS:
        with pytest.raises(ValueError, match="must be finite"):
            save_lora(diverged, target(tmp_path, format), format=format)
    assert sorted(tmp_path.rglob("*")) == [there, there / "notes.txt"]


def test_updates_of_uneven_ranks_are_not_trivial(uneven):
    assert {layer.lora_up.shape[1] for _, layer in iter_lora(uneven)} == {1, 3}
    assert all(np.abs(update).max() > 0 for update in updates(uneven).values())
