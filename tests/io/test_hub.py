"""What is asked of the Hugging Face Hub, with a stand-in for it."""

import fnmatch
import json

import huggingface_hub
import pytest

import draftx.io.sources._local_files as local_files
from draftx import load
from draftx.io import ModelFileError

from .tiny import assert_equal


REPO = "CompVis/stable-diffusion-v1-4"
OTHERS = (
    "README.md",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.non_ema.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/tokenizer.json",
)


@pytest.fixture
def hub(saved, pipeline, tmp_path, monkeypatch):
    """Files on the hub are those of `saved` and more; the cache is `tmp_path`."""
    others = dict.fromkeys(OTHERS, b"")
    others["tokenizer/tokenizer.json"] = pipeline.tokenizer.to_json().encode()
    files = {str(p.relative_to(saved)): p for p in saved.rglob("*") if p.is_file()}
    calls = []

    def snapshot_download(repo_id, *, revision, allow_patterns):
        calls.append((repo_id, revision))
        for name in [*files, *others]:
            if any(fnmatch.fnmatch(name, p) for p in allow_patterns):
                target = tmp_path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                is_file = name in files
                target.write_bytes(
                    files[name].read_bytes() if is_file else others[name]
                )
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return files, calls


def test_only_what_is_used_is_downloaded(hub, pipeline, tmp_path):
    files, calls = hub
    assert_equal(load(REPO, revision="abc"), pipeline)
    assert set(calls) == {(REPO, "abc")}
    got = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert got == {*files, "tokenizer/tokenizer.json"}


def test_the_float16_variant_is_asked_for_last(hub, tmp_path):
    files, calls = hub
    for name in [name for name in files if name.startswith("unet/diffusion")]:
        files[name.replace(".safe", ".fp16.safe")] = files.pop(name)
    load(REPO)
    assert len(calls) == 3
    assert (tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()


def test_another_family_is_refused_before_its_weights(hub, tmp_path):
    files, _ = hub
    index = tmp_path / "sdxl.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    files["model_index.json"] = index
    with pytest.raises(ModelFileError, match="SDXL"):
        load("stabilityai/stable-diffusion-xl-base-1.0")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_a_connection_the_error_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host\nlong explanation")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelFileError) as caught:
        load(REPO, revision="abc")
    text = str(caught.value)
    assert "ConnectionError: no route to host)" in text
    assert f"`hf download {REPO} --revision abc model_index.json " in text
    assert "unet/diffusion_pytorch_model.safetensors" in text
    assert 'draftx.load("tiny")' in text
    assert "\n" not in text


def test_the_embedded_model_needs_no_hub(saved, pipeline, tmp_path, monkeypatch):
    package = tmp_path / "site" / "draftx"
    file = package / "io" / "sources" / "_local_files.py"
    monkeypatch.setattr(local_files, "__file__", str(file))
    with pytest.raises(ModelFileError, match="embedded model is missing"):
        load("tiny")
    (tmp_path / "site" / "weights").mkdir(parents=True)
    (tmp_path / "site" / "weights" / "tiny").symlink_to(saved)
    assert_equal(load("tiny"), pipeline)
    with pytest.raises(ValueError, match="`revision` must be None"):
        load("tiny", revision="main")
