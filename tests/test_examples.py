"""The examples run as they are called, and write what they say."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import draftx

from .helpers import assert_close
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
# Of one that is a run as the command makes it.
_RUN_FILES = (
    *("README.md", "before_after.png", "config.toml", "curves.png", "scales.png"),
    *("evaluations.jsonl", "lora.safetensors", "metrics.jsonl", "scales.json"),
)
# Examples, and what each measures beside its reward and the animals.
_CASES = {
    "adversarial": {"judge_says_mouse", "judge_says_cat"},
    "clip_score": {"judge_agrees"},
    "counting": {"judge_sees_3", "judge_sees_3_unseen", "bytes_q80"},
    "detection": {"judge_finds_it"},
    "human_preference": set(),
    "incompressibility": {"bytes_q80", "bytes_q95"},
    "rotation": set(),
}
_CUSTOM = ("custom_estimator", "custom_reward", "custom_sampler")
# The variants of Algorithm 1, and what `finetune` calls them.
_VARIANTS = {
    "draft": draftx.DRaFT(),
    "draft-k": draftx.DRaFT(truncation_steps=2),
    "draft-lv": draftx.DRaFTLV(num_samples=1, reduction="sum"),
    "refl": draftx.ReFL(max_steps=2),
}


def _run(name, folder, *more):
    return subprocess.run(
        [sys.executable, f"examples/{name}.py", *_SHORT, f"--out={folder}", *more],
        cwd=_ROOT,
        # With the flags of the compiler that all tests have.
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")},
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


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tiny.write_tokenizer(folder, max_length=32)
    return tiny.random_pipeline(tokenizer, short=True)


@pytest.fixture
def import_example(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "examples"))
    return importlib.import_module


def test_an_example_with_another_model(pipeline, tmp_path):
    draftx.save(pipeline, tmp_path / "model")
    options = (
        f"--model={tmp_path / 'model'}",
        "--rank=2",
        "--batch-size=1",
        "--method=draft-k",
        "--height=32",
        "--width=32",
        "--remat=step",
        "--images-at-once=1",
    )
    _check("rotation", tmp_path, set(), *options)


@pytest.mark.slow
@pytest.mark.parametrize("name", _CASES)
def test_example(name, tmp_path):
    _check(name, tmp_path, _CASES[name] | {"animal_accuracy"})


@pytest.mark.slow
def test_the_example_that_is_a_run(tmp_path):
    result = _run("compressibility", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    for file in _RUN_FILES:
        assert (tmp_path / file).stat().st_size > 0
    run = draftx.runs.open(tmp_path)
    assert len(run.history) == 2
    measured = {"bytes_q80", "bytes_above_flat_q80", "bytes_above_flat_q95"}
    for row in run.evaluations:
        assert measured | {"compressibility", "animal_accuracy"} <= row.keys()
        assert row["bytes_above_flat_q80"] < row["bytes_q80"]
        assert row["score"] == row["compressibility"]
    assert run.scales is not None
    assert [row["lora_scale"] for row in run.scales.figures] == [0, 1]
    assert f"everything is in {tmp_path}" in result.stdout


@pytest.mark.slow
def test_what_is_looked_for_may_be_excluded(tmp_path):
    _check("detection", tmp_path, _CASES["detection"], "--exclude")


@pytest.mark.parametrize("name", _CUSTOM)
def test_an_example_of_an_extension(
    name, import_example, monkeypatch, pipeline, capsys
):
    monkeypatch.setattr(draftx, "load", lambda _: pipeline)
    with jax.numpy_rank_promotion("allow"):  # As a user has it.
        import_example(name).main(num_train_steps=2, num_inference_steps=2)
    rewards = json.loads(capsys.readouterr().out)
    assert len(rewards) == 2
    assert all(jnp.isfinite(jnp.asarray(rewards)))
    lines = (_ROOT / "examples" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 60


@pytest.mark.parametrize(
    "variant",
    [
        "draft-lv",
        # As the first with other limits of its loops, or without one.
        pytest.param("refl", marks=pytest.mark.slow),
        pytest.param("draft-k", marks=pytest.mark.slow),
        pytest.param("draft", marks=pytest.mark.slow),
    ],
)
def test_algorithm_1_is_what_finetune_does(variant, import_example, pipeline):
    example = import_example("algorithm_1")
    pipeline = draftx.add_lora(pipeline, rank=2, key=jr.key(0))
    prompts = ["a cat", "a dog", "cat do"]
    reward = draftx.rewards.RotationAntiCorrelation()
    algorithm = example.Algorithm1(variant, T=3, w=2.0, K=2, n=1, m=2)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        by_hand = example.train(algorithm, pipeline, reward, prompts, jr.key(1), 1)
    result = draftx.finetune(
        pipeline,
        reward,
        prompts,
        draftx.Sampling(num_inference_steps=3, guidance_scale=2.0),
        method=_VARIANTS[variant],
        key=jr.key(1),
        num_train_steps=1,
        batch_size=2,
        callbacks=(),
    )
    by_hand, tuned = map(draftx.lora_state_dict, (by_hand, result.pipeline))
    assert any(jnp.any(x != 0) for name, x in tuned.items() if ".up." in name)
    assert_close(by_hand, tuned)


def test_every_example_is_tested():
    scripts = {path.stem for path in (_ROOT / "examples").glob("[!_]*.py")}
    own = {"algorithm_1", "compressibility", "super_resolution", "text_to_3d"}
    assert scripts == {*_CASES, *_CUSTOM, *own}
