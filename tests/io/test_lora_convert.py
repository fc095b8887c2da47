"""Adapters of all formats and spellings, converted, with their model and without."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_lora, save_lora
from draftx.io import convert_lora_file, describe_lora, ModelFileError

from .test_lora import assert_same_updates, pair, TO_Q
from .test_lora_formats import FORMATS, header, target
from .test_lora_names import kohya, SPELLINGS


# Which of these spellings only the model can read.
NEEDS_MODEL = ("original blocks", "kohya, original blocks", "original blocks, whole")


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_converted(pipeline, scaled_everywhere, tmp_path, name):
    file, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    save_lora(scaled_everywhere, file)
    spelled = {SPELLINGS[name](key): array for key, array in load_file(file).items()}
    save_file(spelled, file, metadata={"trigger": "kept", "ss_network_alpha": "3"})
    model = None
    if name in NEEDS_MODEL:
        with pytest.raises(ModelFileError, match="Without a model, .* Give the"):
            convert_lora_file(file, out, "kohya")
        assert not out.exists()
        model = pipeline
    convert_lora_file(file, out, "kohya", pipeline=model)
    assert_same_updates(load_lora(pipeline, out), scaled_everywhere)
    assert header(out)["trigger"] == "kept"


def test_alphas_and_headers_of_others_are_converted(
    pipeline, scaled_everywhere, tmp_path
):
    file = tmp_path / "x.safetensors"
    save_lora(scaled_everywhere, file)
    arrays = {kohya(key): array for key, array in load_file(file).items()}
    alphas = {key.split(".")[0] + ".alpha" for key in arrays}
    rng = np.random.default_rng(3)
    arrays |= {
        key: np.asarray(rng.integers(1, 9), np.float32) for key in sorted(alphas)
    }
    said = {"ss_tag_frequency": "{}", "ss_sd_model_name": "v1-5.ckpt"}
    stale = {"ss_network_alpha": "8", "sshs_model_hash": "0", "draftx_rank": "99"}
    save_file(arrays, file, metadata=said | stale)
    expected = load_lora(pipeline, file)
    for format in FORMATS:
        path = target(tmp_path, format)
        convert_lora_file(file, path, format, metadata={"reward": "mine"})
        file = path  # The next is made of it.
        assert_same_updates(load_lora(pipeline, path), expected)
        found = header(path / "adapter_model.safetensors" if path.is_dir() else path)
        assert found.items() >= (said | {"reward": "mine"}).items()
        assert found["draftx_rank"] == "3"
        assert found.get("sshs_model_hash") != "0"
        assert describe_lora(path)["made_for"][0] == "v1-5.ckpt"


def test_what_is_not_converted(tmp_path):
    file, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    for arrays, message in (
        (pair("unet.mid_block.attn2.to_k", features=(2048, 8)), "trained on SDXL"),
        (pair("lora_te2_text_model", sides=(".lora_down", ".lora_up")), "on SDXL"),
        (pair(TO_Q.replace("blocks.0.attn1", "blocks.1.attn1")), "trained on SDXL"),
        (pair("unet.nowhere"), "1 of 1 are not: nowhere. Give the model"),
        (
            pair("input_blocks_1_1_proj_in", sides=(".lora_down", ".lora_up")),
            "1 of 1 are not: input_blocks_1_1_proj_in",
        ),
        ({f"{TO_Q}.dora_scale": np.ones(3, np.float32)}, "DoRA"),
        ({f"{TO_Q}.hada_w1_a": np.ones(3, np.float32)}, "LoHa"),
        ({f"{TO_Q}.lora.up.weight": np.ones((8, 2), np.float32)}, "the other half"),
    ):
        save_file(arrays, file)
        with pytest.raises(ModelFileError, match=message):
            convert_lora_file(file, out, "kohya")
    assert list(tmp_path.iterdir()) == [file]
