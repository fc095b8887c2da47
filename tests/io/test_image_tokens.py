"""Tokens of pictures as files: read again, by diffusers too; what is none."""

import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx.io import load_image_tokens, ModelFileError, save_image_tokens
from draftx.models import checkpoint_arrays, ImageTokens

from ..goldens import make_image_tokens, make_models
from .tiny import assert_equal


@pytest.fixture(scope="module")
def tokens(short_pipeline):
    config = short_pipeline.unet.config
    return ImageTokens(config, embedding_features=3, key=jr.key(7))


def test_a_file_is_read_again(tokens, short_pipeline, tmp_path):
    path = tmp_path / "tokens.safetensors"
    save_image_tokens(tokens, path)
    assert_equal(load_image_tokens(short_pipeline, path), tokens)
    half = load_image_tokens(short_pipeline, path, dtype="bfloat16")
    assert half.image_proj.proj.dtype == "bfloat16"
    names = set(load_file(path))
    # Every other attention is of the image to itself.
    assert "ip_adapter.1.to_k_ip.weight" in names
    assert not any(name.startswith("ip_adapter.2.") for name in names)


def test_other_numbers_of_tokens_are_in_the_shapes(short_pipeline, tmp_path):
    config, path = short_pipeline.unet.config, tmp_path / "tokens.safetensors"
    three = ImageTokens(config, embedding_features=5, num_tokens=3, key=jr.key(7))
    save_image_tokens(three, path)
    assert_equal(load_image_tokens(short_pipeline, path), three)


def _as_face_id(arrays):
    arrays["image_proj.proj.0.weight"] = arrays.pop("image_proj.proj.weight")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda x: x.pop("ip_adapter.1.to_v_ip.weight"),
            "1 missing: ip_adapter.1.to_v_ip",
        ),
        (lambda x: x.pop("image_proj.norm.weight"), "must hold an IP-Adapter of one"),
        (_as_face_id, r"it has none and \(12,\)"),
        (
            lambda x: x.update({"image_proj.norm.weight": np.ones(6, np.float32)}),
            r"a model with 12 text features.* and \(6,\)",
        ),
        (
            lambda x: x.update({"ip_adapter.99.to_k_ip.weight": np.ones((2, 2))}),
            "1 unexpected: ip_adapter.99",
        ),
        (
            lambda x: x.update({"ip_adapter.1.to_k_ip.weight": np.ones((2, 2))}),
            "1 of the wrong shape: ip_adapter.1.to_k_ip",
        ),
    ],
)
def test_what_is_no_such_file(change, text, tokens, short_pipeline, tmp_path):
    arrays, path = checkpoint_arrays(tokens), tmp_path / "tokens.safetensors"
    change(arrays)
    save_file(arrays, path)
    with pytest.raises(ModelFileError, match=text):
        load_image_tokens(short_pipeline, path)


def test_names_of_files(tokens, short_pipeline, tmp_path, without_types):
    with pytest.raises(ValueError, match=r"`path` must end in \.safetensors"):
        save_image_tokens(tokens, tmp_path / "tokens.bin")
    path = tmp_path / "tokens.safetensors"
    with pytest.raises(ModelFileError, match="tokens.safetensors' does not exist.$"):
        load_image_tokens(short_pipeline, path)
    with pytest.raises(ModelFileError, match="`path` must be a .* is a folder.$"):
        load_image_tokens(short_pipeline, tmp_path)
    save_image_tokens(tokens, path)
    with pytest.raises(ModelFileError, match=r"is a folder.*\['tokens.safetensors'\]"):
        load_image_tokens(short_pipeline, tmp_path)
    pickled = path.with_suffix(".bin")
    pickled.write_bytes(b"PK")
    with pytest.raises(ModelFileError, match="tokens.bin'. Pickles are not read"):
        load_image_tokens(short_pipeline, pickled)
    with pytest.raises(ValueError, match="`dtype` must be None or one of"):
        load_image_tokens(short_pipeline, path, dtype="int8")
    with pytest.raises(ValueError, match="`tokens` must be an ImageTokens"):
        save_image_tokens(short_pipeline, tmp_path / "tokens.safetensors")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_diffusers_reads_the_file(tmp_path):
    pytest.importorskip("diffusers")
    import torch
    from diffusers import UNet2DConditionModel

    from draftx.models import UNetConfig

    config, path = make_models.CASES["unet_odd"], tmp_path / "tokens.safetensors"
    ours = ImageTokens(
        UNetConfig.from_dict(config), embedding_features=3, key=jr.key(7)
    )
    save_image_tokens(ours, path)
    model = UNet2DConditionModel(**config)
    state = {k: torch.as_tensor(x) for k, x in load_file(path).items()}
    make_image_tokens.load(model, state)
    theirs = dict(make_image_tokens.parameters(model))
    expected = checkpoint_arrays(ours)
    assert theirs.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(theirs[key].detach().numpy(), value)
