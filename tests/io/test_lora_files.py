"""Arithmetic with files of adapters, and what they are, without their model."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from draftx import load_lora, mix_lora, save_lora
from draftx.io import describe_lora, mix_lora_files, ModelFileError
from draftx.models import map_layers

from .test_lora import assert_same_updates, pair, TO_Q
from .test_lora_names import kohya, peft, SPELLINGS
from .tiny import random_lora


@pytest.fixture(scope="session")
def everywhere(pipeline):
    return random_lora(pipeline, mapped=map_layers)


@pytest.fixture(scope="session")
def arrays(everywhere, tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "x.safetensors"
    save_lora(everywhere, path)
    return load_file(path)


ORIGINAL = [name for name in SPELLINGS if name.startswith("original")]


@pytest.mark.parametrize("name", [n for n in SPELLINGS if n not in ORIGINAL])
def test_every_spelling_is_scaled(pipeline, everywhere, arrays, tmp_path, name):
    file, half = tmp_path / "x.safetensors", tmp_path / "half.safetensors"
    save_file({SPELLINGS[name](key): array for key, array in arrays.items()}, file)
    mix_lora_files([file], [0.5], half)
    assert_same_updates(load_lora(pipeline, half), everywhere, factor=0.5)


@pytest.mark.parametrize("spelled", [str, kohya])
def test_a_mixture_is_that_of_the_models(pipeline, arrays, tmp_path, spelled):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    adapted = random_lora(pipeline, 3, targets=("to_q", "fc1"), seed=5)
    save_lora(adapted, other)
    for file, of in ((one, arrays), (other, load_file(other))):
        save_file({spelled(key): array for key, array in of.items()}, file)
    mixed = tmp_path / "new" / "mixed.safetensors"
    mix_lora_files([one, other], [0.25, -2.0], mixed)
    expected = mix_lora([load_lora(pipeline, f) for f in (one, other)], [0.25, -2.0])
    assert_same_updates(load_lora(pipeline, mixed), expected)


def test_every_alpha_is_multiplied_in_and_the_base_model_kept(pipeline, tmp_path):
    file, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    of_kohya = {kohya(key): array for key, array in pair().items()}
    (alpha,) = {key.split(".")[0] + ".alpha" for key in of_kohya}
    header = {"ss_base_model_version": "sd_v1", "ss_network_alpha": "0.5"}
    save_file(of_kohya | {alpha: np.full((), 0.5, np.float16)}, file, metadata=header)
    mix_lora_files([file, file], [1.0, 1.0], out)
    assert_same_updates(load_lora(pipeline, out), load_lora(pipeline, file), factor=2)
    with safe_open(out, "np") as opened:
        assert opened.metadata() == {"format": "pt", "ss_base_model_version": "sd_v1"}

    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(
        {f"base_model.model.{peft(k)}": array for k, array in pair().items()},
        folder / "adapter_model.safetensors",
    )
    config = {"r": 2, "lora_alpha": 16, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    mix_lora_files([folder], [1.0], out)
    assert_same_updates(load_lora(pipeline, out), load_lora(pipeline, folder))
    assert describe_lora(folder)["scales"] == {8.0: 1}


def test_files_that_do_not_belong_together_are_named(arrays, tmp_path):
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    save_file(arrays, files[0])
    save_file({kohya(key): array for key, array in arrays.items()}, files[1])
    original = SPELLINGS["original blocks"]
    save_file({original(key): array for key, array in arrays.items()}, files[2])
    save_file(pair(features=(16, 8)), files[3])
    out = tmp_path / "out.safetensors"
    for chosen, message in (
        (files[:2], "name their layers in one way.*0.safetensors': diffusers.*kohya"),
        ([files[2]], "name their layers in one way.*original"),
        ([files[0], files[3]], f"{TO_Q}' have the shapes"),
        ([tmp_path / "no.safetensors"], "does not exist"),
    ):
        with pytest.raises(ModelFileError, match=message):
            mix_lora_files(chosen, [1.0] * len(chosen), out)
    with pytest.raises(ValueError, match="`output` must end in .safetensors"):
        mix_lora_files(files[:1], [1.0], tmp_path / "out.bin")
    with pytest.raises(ValueError, match="`weights` must hold one number for each"):
        mix_lora_files(files[:1], [], out)
    save_file({f"{TO_Q}.lora.down.weight": np.ones((2, 8), np.float32)}, files[3])
    with pytest.raises(ModelFileError, match="1 tensors lack the other half"):
        mix_lora_files(files[3:], [1.0], out)
    save_file({f"{TO_Q}.dora_scale": np.ones(3, np.float32)}, files[3])
    with pytest.raises(ModelFileError, match="DoRA"):
        describe_lora(files[3])
    assert not out.exists()


def test_what_a_file_says_of_itself(arrays, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({kohya(key): a.astype(np.float16) for key, a in arrays.items()}, file)
    about = describe_lora(file)
    assert about["formats"] == ["kohya's scripts"]
    assert (about["ranks"], about["alphas"]) == (
        {2: len(arrays) // 2},
        {None: len(arrays) // 2},
    )
    assert about["dtypes"] == {"F16": len(arrays)}
    assert about["parameters"] == sum(a.size for a in arrays.values())
    assert about["layers"]["cross_attention"] == 16
    assert about["layers"]["text_encoder"] == 12
    assert about["made_for"] == ["cross-attention of width 12"]
    save_file(pair("unet.mid_block.attn2.to_k", features=(768, 8)), file)
    (said,) = describe_lora(file)["made_for"]
    assert said.endswith("Stable Diffusion 1.x")
