import json

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest

from draftx import Table
from draftx.io import ModelFileError
from draftx.rewards import (
    AbstractReward,
    hps_benchmark,
    hps_prompts,
    hps_result,
    HPS_STYLES,
)


class _Red(AbstractReward):
    """Red, plus a hundredth of what the prompt says."""

    def prepare(self, rows):
        return jnp.asarray([0.01 * float(p.split()[1]) for p in Table.of(rows).prompts])

    def __call__(self, images, features=None):
        return jnp.mean(images[..., 0], axis=(1, 2)) + features


def _prompts(style):
    return [f"{style} {i}" for i in range(800)]


@pytest.fixture
def folder(tmp_path):
    for style in HPS_STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps(_prompts(style)))
    return tmp_path


def test_prompts_of_a_folder(folder):
    prompts = hps_prompts(folder)
    assert tuple(prompts) == HPS_STYLES
    assert prompts["photo"] == _prompts("photo")


def test_prompts_of_the_hub(folder, monkeypatch):
    calls = []

    def hf_hub_download(repo_id, filename, *, repo_type, revision):
        calls.append((repo_id, filename, repo_type))
        return str(folder / filename.split("/")[-1])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert hps_prompts()["anime"] == _prompts("anime")
    assert calls[0] == ("ymhao/HPDv2", "benchmark/anime.json", "dataset")
    assert len(calls) == 4


def test_mean_and_deviation_are_those_of_the_authors():
    """Ten groups of 80, one after the other, and the deviation of ten numbers."""
    scores = np.random.default_rng(0).normal(0.27, 0.02, 800)
    groups = [np.mean(scores[i : i + 80]) * 100 for i in range(0, 800, 80)]
    np.testing.assert_allclose(hps_result(scores), (np.mean(groups), np.std(groups)))


def test_every_prompt_gets_its_image():
    drawn = []

    def draw(prompts):
        drawn.extend(prompts)
        return jnp.full((len(prompts), 2, 2, 3), 0.25)

    results = hps_benchmark(_Red(), draw, {"photo": _prompts("photo")}, batch_size=160)
    assert drawn == _prompts("photo")
    expected = 0.25 + 0.01 * np.arange(800)
    np.testing.assert_allclose(results["photo"], hps_result(expected), rtol=1e-5)


def test_error_texts(folder, monkeypatch):
    draw = lambda prompts: jnp.zeros((3, 2, 2, 3))
    with pytest.raises(ValueError, match="`batch_size` must divide 800.* got 7"):
        hps_benchmark(_Red(), draw, {"photo": _prompts("p")}, batch_size=7)
    with pytest.raises(ValueError, match="must have styles among .* got .'oil'"):
        hps_benchmark(_Red(), draw, {"oil": _prompts("p")})
    with pytest.raises(ValueError, match="must have 800 for each .* {'photo': 799}"):
        hps_benchmark(_Red(), draw, {"photo": _prompts("p")[1:]})
    with pytest.raises(ValueError, match="one image for each prompt; got 3 for 8"):
        hps_benchmark(_Red(), draw, {"photo": _prompts("p")})
    with pytest.raises(ValueError, match=r"must be the 800 .* got the shape \(80,\)"):
        hps_result(np.zeros(80))
    (folder / "photo.json").write_text(json.dumps(["one"]))
    with pytest.raises(ModelFileError, match="must hold 800 prompts; it holds 1"):
        hps_prompts(folder)
    (folder / "photo.json").write_text('{"a": 1}')
    with pytest.raises(ModelFileError, match="must hold a list of strings"):
        hps_prompts(folder)
    (folder / "photo.json").unlink()
    with pytest.raises(ModelFileError, match="photo.json' is missing.* --repo-type d"):
        hps_prompts(folder)

    def offline(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    text = "The files of the HPSv2 benchmark .*`hf download ymhao/HPDv2 --repo-type dat"
    with pytest.raises(ModelFileError, match=text):
        hps_prompts()
