"""The adapter of a run at other scales: measured, drawn, and told of."""

import dataclasses
import json

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.finetuning import FinetuneResult
from draftx.runs import open_run, write_report
from draftx.runs.folder._card import write_card
from draftx.runs.folder._panels import split_panels
from draftx.runs.training._callbacks import Samples
from draftx.runs.training._push import _files
from draftx.runs.training._scales import measure_scales


_SCALES = (0.0, 0.5, 1.0)


@pytest.fixture
def measured(run, short_pipeline):
    """Measures the adapter of a run at scales, as a training does at its end."""
    config = dataclasses.replace(open_run(run).config, lora_scales=_SCALES)
    folder = open_run(run).folder
    pipeline = draftx.load_lora(short_pipeline, folder.lora)
    sampling = draftx.Sampling(2, 1.0)
    reward = lambda images: images.mean((1, 2, 3))
    prompts = ["a cat", "a dog"]
    samples = Samples(
        folder,
        prompts,
        sampling,
        jr.key(1),
        every=1,
        images_at_once=8,
        tell=lambda what: None,
    )

    def call(steps=3, reward=reward, **changes):
        history = [{"step": i, "reward": 0.5, "reward_std": 0.0} for i in range(steps)]
        result = FinetuneResult(pipeline, history, **changes.pop("result", {}))
        evaluation = draftx.Evaluation(prompts, {"mine": reward}, sampling)
        changed = dataclasses.replace(config, **changes)
        measure_scales(changed, folder, result, evaluation, prompts, samples.images)
        write_card(changed, folder, result)
        return evaluation, pipeline

    return call


def test_figures_and_pictures_of_each_scale(measured, run, tmp_path, capsys):
    evaluation, pipeline = measured()
    found = open_run(run).scales
    assert found is not None
    assert found.step == 3
    for scale, row in zip(_SCALES, found.figures, strict=True):
        expected = evaluation(draftx.scale_lora(pipeline, scale))
        assert row == {"lora_scale": scale} | expected
    scores = [row["score"] for row in found.figures]
    assert found.best == _SCALES[int(np.argmax(scores))]
    assert "measuring the adapter at 3 scales" in capsys.readouterr().err
    folder = open_run(run).folder
    panels = split_panels(folder.scales_picture.read_bytes())
    assert [panel.row for panel in panels[::2]] == ["scale 0", "scale 0.5", "scale 1"]
    card = folder.card.read_text()
    assert "![the same noise at each scale](scales.png)" in card
    assert f"| 0.5 | {found.figures[1]['score']:.4g} | " in card
    assert f"'lora.safetensors', scale={found.best:g})" in card
    assert {"scales.json", "scales.png"} <= set(_files(folder))
    page = write_report([run], tmp_path / "page.html").read_text()
    assert "The adapter at other scales" in page
    assert f"{found.best:g} (best)" in page
    # What is there is not measured again, and that of another adapter goes.
    measured()
    assert capsys.readouterr().err == ""
    measured(steps=4, result={"stopped": "SIGTERM"})
    assert open_run(run).scales is None
    assert not folder.scales_picture.exists()
    assert "scales.png" not in folder.card.read_text()


def test_what_the_run_has_measured_is_not_measured_again(measured, run, capsys):
    figures = [{"step": i, "score": float(i), "train_reward": 0.0} for i in (0, 2, 3)]
    measured(lora_scales=(0.0, 1.0), result={"evaluations": figures, "step": 2})
    found = open_run(run).scales
    assert found is not None
    assert [row["score"] for row in found.figures] == [0, 2]
    assert [*found.figures[0]] == ["lora_scale", "score"]
    # An adapter of a file is something at scale 0 before training, too.
    other = {"evaluations": figures, "step": 3}
    measured(lora_scales=(0.0, 1.0), init_lora="a.safetensors", result=other)
    found = open_run(run).scales
    assert found is not None
    assert found.figures[0]["score"] not in (0, 3)
    assert found.figures[1]["score"] == 3


def test_nothing_is_measured_unless_it_is_asked_for(measured, run, tmp_path):
    measured(lora_scales=())
    assert open_run(run).scales is None
    page = write_report([run], tmp_path / "page.html").read_text()
    assert "The adapter at other scales" not in page


def test_scores_that_are_not_finite_lose_nothing_else(measured, run):
    with pytest.warns(UserWarning, match="`lora_scales` were not measured: `scales` m"):
        measured(reward=lambda images: jnp.nan * images.mean((1, 2, 3)))
    assert open_run(run).scales is None


def test_the_picture_of_the_adapter_that_is_kept_is_shown(measured, run):
    folder = open_run(run).folder
    for step in (2, 3):
        folder.samples(step).parent.mkdir(exist_ok=True)
        folder.samples(step).write_bytes(b"")
    measured(lora_scales=(), result={"step": 2})
    assert "step-00000002.png" in folder.card.read_text()
    shown = [name for name in _files(folder) if name.startswith("samples")]
    assert shown == ["samples/step-00000002.png"]
    folder.result.write_text(json.dumps({"step": 2, "steps": 3, "kept": "best"}))
    assert open_run(run).step == 2
