"""A whole run by the command: its folder, killed and gone on with, bit for bit."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import draftx
from draftx.io.checkpoints import CheckpointStore
from draftx.io.formats import TensorFile
from draftx.runs import main, open_run
from draftx.runs.folder._folder import RunFolder


_REWARD = """
def redness(images):
    return images[..., 0].mean((1, 2)) - images[..., 1:].mean((1, 2, 3))
"""
_FLAGS = (
    *("--max-train-steps", "4", "--train-batch-size", "2", "--rank", "2"),
    *("--sampling.num-inference-steps", "2", "--sampling.guidance-scale", "1"),
    *("--method.name", "draft", "--method.truncation-steps", "1"),
    *("--evaluation.every", "2", "--evaluation.batch-size", "2"),
    *("--checkpoints.every", "2", "--validation-steps", "2"),
    *("--num-validation-images", "2", "--stopping.keep", "best"),
    *("--lora-scales", "0", "1"),
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Flags of a short run on a reward of one's own."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "mine.py").write_text(_REWARD)
    (folder / "prompts.txt").write_text("a fox, flat style\na cow, 3d style\n")
    reward, prompts = f"{folder}/mine.py:redness", f"{folder}/prompts.txt"
    return [*_FLAGS, "--reward", reward, "--prompts", prompts, "--held-out", "0.5"]


def _start(flags, out):
    return _run_command(["train", "--output-dir", str(out), *flags])


def _run_command(arguments):
    # As many devices as the command has by itself.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-m", "draftx", *arguments],
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _untimed(rows):
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.mark.slow
def test_a_run_that_is_killed_and_stopped_ends_as_one_that_was_not(given, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    process = _start(given, whole)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert 'name = "draft"' in out
    assert "held-out figures, before and after 4 steps" in out
    run = open_run(whole)
    assert [row["step"] for row in run.history] == [0, 1, 2, 3]
    assert [row["step"] for row in run.evaluations] == [0, 2, 4]
    assert run.checkpoints == [2, 4]
    assert run.config.method.truncation_steps == 1
    scores = {row["step"]: row["score"] for row in run.evaluations}
    assert run.step == max(scores, key=lambda step: scores[step])
    kept = {"step": run.step, "steps": 4, "kept": "best", "stopped": None}
    assert json.loads(run.folder.result.read_text()) == kept
    assert f": {run.step} steps of 2 images" in run.folder.card.read_text()
    assert run.scales is not None
    at_one = {row["lora_scale"]: row["score"] for row in run.scales.figures}[1.0]
    np.testing.assert_allclose(at_one, scores[run.step], rtol=1e-5)
    names = ("curves", "lora", "card", "versions")
    files = [getattr(run.folder, name) for name in names]
    files += [run.folder.samples(step) for step in (0, 2, 4)]
    assert all(file.stat().st_size > 100 for file in files)
    assert "| 4 | " in run.folder.card.read_text()
    versions = json.loads(run.folder.versions.read_text())
    assert versions["draftx"] == draftx.__version__

    # Killed at the first checkpoint, then left alone, then asked to stop.
    process = _start(given, parts)
    checkpoint = RunFolder(parts).checkpoints / "step-00000002"
    end = time.monotonic() + 300
    while not checkpoint.is_dir() and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = _start(given, parts)
    _, err = process.communicate()
    assert process.returncode == 0, err
    resumed = open_run(parts)
    assert _untimed(resumed.history) == _untimed(run.history)
    assert resumed.evaluations == run.evaluations
    assert (resumed.step, resumed.scales) == (run.step, run.scales)
    one, other = (TensorFile(r.folder.lora) for r in (run, resumed))
    for name in one.shapes:
        np.testing.assert_array_equal(one.read_exactly(name), other.read_exactly(name))
    process = _start([*given, "--max-train-steps", "400"], parts)
    assert process.stderr is not None
    while "fine-tuning" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    last = CheckpointStore(resumed.folder.checkpoints).steps()[-1]
    assert 4 < last < 400
    assert len(open_run(parts).history) == last


@pytest.mark.slow
def test_from_nothing_to_what_is_promised(tmp_path):
    """The defaults: files a third smaller, and animals that are still seen."""
    out = tmp_path / "run"
    start = time.monotonic()
    process = _start([], out)
    _, err = process.communicate()
    seconds = time.monotonic() - start
    assert process.returncode == 0, err
    run = open_run(out)
    assert len(run.history) == 44
    assert [row["step"] for row in run.evaluations] == [0, 44]
    before, after = (row["compressibility"] for row in run.evaluations)
    assert after > before
    # Somebody is told of what lasts, at least every ten seconds.
    assert "compiling the training step" in err
    # What a run may be measured by afterwards, from the same noise.
    names = ("bytes_above_flat_q80", "bytes_above_flat_q95", "animal_accuracy")
    measures = [f"examples/_measures.py:{name}" for name in names]
    process = _run_command(["evaluate", str(out), "--reward", *measures])
    _, err = process.communicate()
    assert process.returncode == 0, err
    base, tuned = json.loads((out / "evaluation.json").read_text())["figures"]
    shrunk = [1 - tuned[name] / base[name] for name in names[:2]]
    print(f"{seconds:.0f} s; shrunk by {shrunk}; seen {tuned[names[2]]:.3f}")
    assert min(shrunk) >= 0.3
    assert tuned["animal_accuracy"] >= 0.88


def test_bad_input_is_named_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, message in (
        (["--sampling.num-inference-steps", "0"], "`num_inference_steps` must be"),
        (["--reward", "clp"], "Did you mean 'clip'?"),
        (["--prompts", "none.txt"], "none.txt': No such file"),
        (["--checkpoints.resume", "x"], "`checkpoints.resume` must be 'latest'"),
        (["--method.max-steps", "3"], "`method.max_steps` must be left out"),
        (["none.toml"], "none.toml"),
        (["--gradient-accumulation-steps", "0"], "accumulation_steps` must be a whole"),
        (["--gradient-accumulation-steps", "45"], "must be at most `max_train_steps`"),
        (["--seed", "99999999999999999999"], "`seed` must lie in"),
        (["--output-dir", ""], "`output_dir` must name a folder"),
        (["--max-train-steps", "0"], "`max_train_steps` must be a whole"),
        (["--method.name", "ddpo", "--train-batch-size", "1"], "at least 2 for DDPO"),
    ):
        assert main(["train", *flags]) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_without_a_command(capsys):
    assert main([]) == 0
    assert "draftx train --help" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "no command 'trian'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["train", "--help"])
    assert error.value.code == 0
    assert "--sampling.guidance-scale" in capsys.readouterr().out


def test_the_promises_name_tests_that_there_are():
    tests = pathlib.Path(__file__).parents[1]
    page = pathlib.Path(draftx.runs.__file__).with_name("README.md").read_text("utf-8")
    named = re.findall(r"`([\w/]*test_\w+\.py)`", page)
    assert len(named) > 10
    assert [name for name in named if not (tests / name).is_file()] == []
