"""The examples run as they are called, and write what they say."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import draftx

from .io import tiny


_ROOT = pathlib.Path(__file__).parent.parent
_FILES = (
    "before_after.png",
    "lora.safetensors",
    "metrics.jsonl",
    "reward.png",
    "scales.png",
)
_SHORT = (
    "--steps=2 --num-inference-steps=2 --batch-size=2 --num-test-prompts=2 "
    "--lora-scale 0 1"
).split()
# Examples, and what each measures beside its reward and the animals.
_CASES = {
    "adversarial": {"judge_says_mouse", "judge_says_cat"},
    "clip_score": {"judge_agrees"},
    "compressibility": {"bytes_q80", "bytes_q95"},
    "detection": {"judge_finds_it"},
    "human_preference": set(),
    "incompressibility": {"bytes_q80", "bytes_q95"},
    "rotation": set(),
}


def _run(name, folder, *more):
    # Short programs: less time for the compiler.
    flags = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, f"examples/{name}.py", *_SHORT, f"--out={folder}", *more],
        cwd=_ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def _check(name, folder, figures, *more):
    result = _run(name, folder, *more)
    assert result.returncode == 0, result.stderr[-2000:]
    for file in _FILES:
        assert (folder / file).stat().st_size > 0
    summary = json.loads((folder / "summary.json").read_text())
    for when in ("before", "after"):
        assert figures | {"reward"} <= summary[when].keys()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_example_with_another_model(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path / "tokenizer", max_length=32)
    draftx.save(tiny.random_pipeline(tokenizer), tmp_path / "model")
    options = (
        f"--model={tmp_path / 'model'}",
        "--rank=2",
        "--batch-size=1",
        "--method=draft-k",
    )
    _check("rotation", tmp_path, set(), *options)


@pytest.mark.slow
@pytest.mark.parametrize("name", _CASES)
def test_example(name, tmp_path):
    _check(name, tmp_path, _CASES[name] | {"animal_accuracy"})


@pytest.mark.slow
def test_what_is_looked_for_may_be_excluded(tmp_path):
    _check("detection", tmp_path, _CASES["detection"], "--exclude")


def test_every_example_is_tested():
    scripts = {path.stem for path in (_ROOT / "examples").glob("[!_]*.py")}
    assert scripts == set(_CASES)
