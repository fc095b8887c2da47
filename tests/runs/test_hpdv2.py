"""Prompts of Human Preference Dataset v2: of a folder, of the cache, and without."""

import json
import pathlib

import huggingface_hub
import pytest
from huggingface_hub import constants

from draftx.io import ModelFileError
from draftx.rewards import HPS_STYLES
from draftx.runs import main, read_prompts


_COMMIT = "0" * 40
_PAIRS = {
    "train": [
        {"human_preference": [0, 1], "prompt": prompt, "file_path": ["a.jpg", "b.jpg"]}
        for prompt in ("a cat", "a dog", "a cat")
    ],
    "test": [
        {"prompt": "a cow", "image_path": ["a.jpg"], "rank": [1], "raw_annotations": []}
    ],
}


def _prompts(style):
    return [f"{style} {i}" for i in range(800)]


def _write(folder):
    """The data set as its repository has it, images aside."""
    (folder / "benchmark").mkdir(parents=True)
    for style in HPS_STYLES:
        path = folder / "benchmark" / f"{style}.json"
        path.write_text(json.dumps(_prompts(style)))
    for split, rows in _PAIRS.items():
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of the hub's client, which has no connection."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "datasets--ymhao--HPDv2"


@pytest.fixture
def cached(cache):
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(_COMMIT)
    _write(cache / "snapshots" / _COMMIT)
    return "hpdv2"


@pytest.fixture
def folder(tmp_path):
    return str(_write(tmp_path / "HPDv2"))


@pytest.mark.parametrize("place", ["cached", "folder"])
def test_every_part_of_it(place, request):
    place = request.getfixturevalue(place)
    whole = [prompt for style in HPS_STYLES for prompt in _prompts(style)]
    assert read_prompts(place).prompts == whole
    for style in HPS_STYLES:
        assert read_prompts(f"{place}:{style}").prompts == _prompts(style)
    assert read_prompts(f"{place}:train").prompts == ["a cat", "a dog"]
    assert read_prompts(f"{place}:test").prompts == ["a cow"]
    with pytest.raises(ValueError, match=r":anime, .*:test; got '.*:fotos'"):
        read_prompts(f"{place}:fotos")


def test_the_files_of_the_benchmark_may_lie_in_the_folder_itself(folder):
    inner = pathlib.Path(folder) / "benchmark"
    assert read_prompts(f"{inner}:photo").prompts == _prompts("photo")


def test_without_it_the_command_that_gets_it_is_said(cache, tmp_path, capsys):
    del cache
    files = " ".join(f"benchmark/{style}.json" for style in HPS_STYLES)
    out = tmp_path / "run"
    for name, command in (
        ("hpdv2:photo", f"`hf download ymhao/HPDv2 --repo-type dataset {files}`"),
        ("hpdv2:train", "`hf download ymhao/HPDv2 --repo-type dataset train.json`"),
    ):
        assert main(["train", "--output-dir", str(out), "--prompts", name]) == 1
        error = capsys.readouterr().err
        assert f"The files of the prompts {name!r} are not here" in error
        assert command in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "must be a JSON list of objects with 'prompt'; it is not: JSONDecode"),
        ("[3]", "must be a JSON list of objects with 'prompt'; it is not: TypeError"),
        ('[{"text": "a"}]', "it is not: KeyError: 'prompt'"),
        ("[]", "must hold prompts, which are texts"),
        ('[{"prompt": 3}]', "must hold prompts, which are texts"),
        (None, "train.json --local-dir .*HPDv2` gets it"),
    ],
)
def test_files_that_are_none(folder, content, message):
    path = pathlib.Path(folder) / "train.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelFileError, match=message):
        read_prompts(f"{folder}:train")


def test_it_is_fetched_ahead(folder, monkeypatch, capsys):
    asked = []

    def download(repo, name, *, repo_type, revision):
        asked.append((repo, name, repo_type))
        return str(pathlib.Path(folder) / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert main(["fetch", "hpdv2", "hpdv2:photo", "hpdv2:train"]) == 0
    names = [*(f"benchmark/{style}.json" for style in HPS_STYLES), "train.json"]
    assert asked == [("ymhao/HPDv2", name, "dataset") for name in names]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ymhao/HPDv2: ")
    assert lines[0].endswith("in 4 files, here and checked")
    assert main(["fetch", "hpdv3"]) == 1
    assert "Did you mean 'hpdv2'?" in capsys.readouterr().err
