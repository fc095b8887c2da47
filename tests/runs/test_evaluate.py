"""Figures by the command are those of an evaluation, at each scale."""

import json

import numpy as np
import pytest

import draftx
from draftx.runs import main, open_run
from draftx.runs.config._make import keys


def _evaluation(run, reward):
    config = open_run(run).config
    return draftx.Evaluation(
        ["a cat", "a dog", "a do"],
        {"incompressibility": reward},
        draftx.Sampling(2, 1.0),
        weights={"incompressibility": 2.0},
        num_samples=2,
        batch_size=4,
        key=keys(config)["evaluation"],
    )


def test_figures_of_a_run_at_several_scales(run, short_pipeline, capsys):
    flags = ["--lora-scale", "0", "0.5", "1", "--reward", "incompressibility=2"]
    assert main(["evaluate", str(run), *flags]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["base", "scale", "0.5", "tuned"]
    found = json.loads((run / "evaluation.json").read_text())
    evaluation = _evaluation(run, draftx.rewards.JPEGIncompressibility())
    pipeline = draftx.load_lora(short_pipeline, run / "lora.safetensors")
    for row, scale in zip(found["figures"], (0.0, 0.5, 1.0), strict=True):
        assert row.pop("lora_scale") == scale
        expected = evaluation(draftx.scale_lora(pipeline, scale))
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-4)
    scores = [row["score"] for row in found["figures"]]
    assert found["best_lora_scale"] == (0.0, 0.5, 1.0)[int(np.argmax(scores))]
    assert f"scale {found['best_lora_scale']:g}\n" in out
    assert (found["prompts"], found["num_samples"]) == (3, 2)
    flags = ["--reward", "incompressibility=2", "compressibility=0"]
    assert main(["evaluate", str(run), "--lora-scale", "0", *flags]) == 0
    (row,) = json.loads((run / "evaluation.json").read_text())["figures"]
    np.testing.assert_allclose(row["score"], scores[0], rtol=1e-6)
    np.testing.assert_allclose(row["compressibility"], -row["incompressibility"])


def test_a_model_without_an_adapter(model, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.json"
    prompts.write_text("a cat\n")
    flags = [
        "--model",
        str(model),
        "--prompts",
        str(prompts),
        "--output-file",
        str(out),
    ]
    flags += ["--sampling.num-inference-steps", "1", "--evaluation.num-samples", "1"]
    assert main(["evaluate", *flags, "--reward", "compressibility"]) == 0
    (row,) = json.loads(out.read_text())["figures"]
    assert row["score"] == row["compressibility"] < 0
    assert capsys.readouterr().out.split()[0] == "base"


def test_what_cannot_be_measured_is_said_before_anything_is_loaded(
    run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for flags, message in (
        (["--reward", "clp"], "Did you mean 'clip'?"),
        (["--prompts", "none.txt"], "none.txt': No such file"),
        (["--sampling.eta", "2"], "`eta` must lie"),
        (["no"], "`folder` must be that of a run"),
    ):
        assert main(["evaluate", *flags]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    for flags in (["--evaluation.every", "3"], ["--lora-scale", "x"]):
        with pytest.raises(SystemExit) as error:
            main(["evaluate", str(run), *flags])
        assert error.value.code == 2
