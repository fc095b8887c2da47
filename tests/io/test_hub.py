"""What is asked of the Hugging Face Hub, with a stand-in for it."""

import fnmatch
import json

import huggingface_hub
import pytest

import draftx.io.sources._local_files as local_files
from draftx import load
from draftx.io import ModelFileError

from .test_pickled_weights import as_pickle, PICKLES
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

    def list_repo_files(repo_id, *, revision):
        return [*files, *OTHERS]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)
    return files, calls


def test_only_what_is_used_is_downloaded(hub, pipeline, tmp_path):
    files, calls = hub
    assert_equal(load(REPO, revision="abc"), pipeline)
    assert set(calls) == {(REPO, "abc")}
    got = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert got == {*files, "tokenizer/tokenizer.json"}


def test_the_float16_variant_is_asked_for_last(hub, tmp_path):
    files, calls = hub
    _as_variant(files, "fp16", "unet")
    load(REPO)
    assert len(calls) == 3
    assert (tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()


def _as_variant(files, variant, *parts):
    for name in [name for name in files if name.split("/")[0] in parts]:
        if name.endswith(".safetensors"):
            files[name.replace(".safe", f".{variant}.safe")] = files.pop(name)


def test_exactly_the_variant_asked_for_is_downloaded(hub, pipeline, tmp_path):
    files, calls = hub
    plain = [name for name in files if name.endswith(".safetensors")]
    for name in plain:
        if not name.startswith("vae/"):
            files[name.replace(".safe", ".bf16.safe")] = files[name]
    with pytest.warns(UserWarning, match="no 'bf16' weights of vae; those without"):
        loaded = load(REPO, revision="abc", variant="bf16")
    assert_equal(loaded, pipeline)
    got = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.safetensors")}
    assert got == {
        "unet/diffusion_pytorch_model.bf16.safetensors",
        "text_encoder/model.bf16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    # The model's kind, the variant, that in pickles, and those without.
    assert len(calls) == 4


def test_a_variant_that_is_alone_on_the_hub_is_named(hub, tmp_path):
    files, calls = hub
    _as_variant(files, "bf16", "vae")
    with pytest.raises(ModelFileError) as caught:
        load(REPO)
    text = str(caught.value)
    assert f"{REPO!r} on the Hugging Face Hub must have weights of vae" in text
    name = "diffusion_pytorch_model.bf16.safetensors"
    assert f"Of vae: It holds {name}: pass `variant='bf16'" in text
    assert "pass `variant='non_ema'" in text
    assert len(calls) == 5


def test_a_variant_that_is_not_on_the_hub_downloads_nothing_large(hub, tmp_path):
    with pytest.raises(ModelFileError) as caught:
        load(REPO, variant="int8")
    text = str(caught.value)
    assert "weights of the variant 'int8' of unet, vae, text_encoder" in text
    # What `OTHERS` has beside the plain files.
    assert "pass `variant='fp16'`" in text
    assert "pass `variant='non_ema'`" in text
    assert not list(tmp_path.rglob("*.safetensors"))


def _as_pickles(files, tmp_path, *parts):
    """The weights of these parts as PyTorch's files alone."""
    for name in [n for n in files if n.endswith(".safetensors")]:
        part = name.split("/")[0]
        if part in parts:
            path = tmp_path / f"{part}.bin"
            as_pickle(files.pop(name), path)
            files[f"{part}/{PICKLES[part]}.bin"] = path


def test_pickles_are_downloaded_where_there_is_nothing_else(
    hub, pipeline, tmp_path, tmp_path_factory
):
    files, calls = hub
    _as_pickles(files, tmp_path_factory.mktemp("pickles"), "text_encoder", "vae")
    assert_equal(load(REPO, revision="abc"), pipeline)
    assert set(calls) == {(REPO, "abc")}
    got = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert got == {*files, "tokenizer/tokenizer.json"}
    assert "unet/diffusion_pytorch_model.bin" not in got


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
    with pytest.raises(ModelFileError, match="/diffusion_pytorch_model.bf16.safe"):
        load(REPO, variant="bf16")
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
