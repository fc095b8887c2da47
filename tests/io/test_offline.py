"""No hub, and downloads that broke off: what is missing and how to get it is said."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants

from draftx import load
from draftx.io import ModelFileError

from .hub_server import COMMIT, REPO, serve
from .tiny import assert_equal


UNET = "unet/diffusion_pytorch_model.safetensors"
_COMMAND = f"`hf download {REPO} model_index.json scheduler/scheduler_config.json "
_DRAW = ("sample", "--model", REPO, "--prompt", "a cat", "--output-dir")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the hub's client, empty."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return folder


@pytest.fixture
def files(saved):
    return {
        path.relative_to(saved).as_posix(): path.read_bytes()
        for path in saved.rglob("*")
        if path.is_file()
    }


def _put(cache, files):
    """As the client lays it out."""
    root = cache / f"models--{REPO.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        path = root / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["offline", "refused"],
)
def test_the_command_says_what_to_do_without_a_hub(environment, tmp_path):
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "draftx", *_DRAW, str(tmp_path / "out")],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | environment | {"HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (error,) = [x for x in done.stderr.splitlines() if x.startswith("draftx sample:")]
    assert _COMMAND in error
    assert f"{UNET} vae/" in error
    assert 'draftx.load("tiny")` needs none' in error
    assert "Traceback" not in done.stderr
    # Under load too: five minutes are what a client without a limit would wait.
    assert time.monotonic() - begun < 150


def test_a_model_in_the_cache_needs_no_hub(cache, files, pipeline, monkeypatch):
    _put(cache, files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_equal(load(REPO), pipeline)


@pytest.mark.parametrize("missing", [UNET, "vae/config.json", "tokenizer/merges.txt"])
def test_what_a_part_of_a_download_lacks_is_named(cache, files, missing, monkeypatch):
    _put(cache, {name: data for name, data in files.items() if name != missing})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError) as caught:
        load(REPO)
    text = str(caught.value)
    named = "weights of unet" if missing == UNET else missing
    assert f"must have {named}; the copy in" in text
    assert _COMMAND in text


def test_a_shard_that_a_download_lacks_is_named(cache, files, monkeypatch):
    del files[UNET]
    stem, names = UNET.removesuffix(".safetensors"), []
    for i in (1, 2):
        names.append(f"{stem}-0000{i}-of-00002.safetensors".rpartition("/")[2])
    pairs = ", ".join(f'"{name}": "{name}"' for name in names)
    index = f'{{"weight_map": {{{pairs}}}}}'
    files[f"{UNET}.index.json"] = index.encode()
    files[f"unet/{names[0]}"] = b""
    _put(cache, files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelFileError, match=f"1 are missing: {names[1]}"):
        load(REPO)


def test_a_connection_that_is_cut_leaves_no_half_model(
    cache, files, pipeline, monkeypatch
):
    # The client tries again on its own; only its patience is shortened.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with serve(files) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        place = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
        served.cut = {UNET}
        with pytest.raises(ModelFileError) as caught:
            load(REPO)
        assert _COMMAND in str(caught.value)
        assert len([name for name, _ in served.asked if name == UNET]) > 1
        (only,) = cache.rglob("diffusion_pytorch_model.safetensors")
        assert only.parent.name == "vae"
        # The same call goes on: what is there is not asked for again.
        served.cut = set()
        served.asked.clear()
        assert_equal(load(REPO), pipeline)
        assert {name for name, _ in served.asked} <= {UNET}
        # And then it needs no connection.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        served.asked.clear()
        assert_equal(load(REPO), pipeline)
        assert served.asked == []
