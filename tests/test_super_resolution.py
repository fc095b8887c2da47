"""The embedded model that enlarges, what is measured of it, and the example."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import jax.random as jr
import numpy as np
import pytest

import draftx


_ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def scenes(monkeypatch):
    monkeypatch.syspath_prepend(str(_ROOT / "examples"))
    return importlib.import_module("_scenes")


def test_labelled_pictures_come_with_draftx(scenes):
    held_out = scenes.pictures(0, 4, held_out=True)
    assert held_out.truths.shape == (4, 64, 64, 3)
    assert held_out.small.shape == (4, 16, 16, 3)
    assert held_out.rows.keys() == {"prompt", "conditioning_image", "truth"}
    # Drawn again they are the same; of another seed, or for training, they are not.
    again = scenes.pictures(0, 4, held_out=True)
    np.testing.assert_array_equal(again.small, held_out.small)
    assert scenes.pictures(1, 4, held_out=True).scenes != held_out.scenes
    assert scenes.pictures(0, 4).scenes != held_out.scenes


def test_what_is_measured(scenes):
    """In the truth nothing is hallucinated; in another's picture nearly all is."""
    held_out = scenes.pictures(2, 12, held_out=True)
    figures = held_out.measured(held_out.truths)
    assert figures["hallucinated"] == 0
    assert figures["sharpness"] == pytest.approx(1)
    others = np.roll(held_out.truths, 1, axis=0)
    assert held_out.measured(others)["hallucinated"] > 0.8
    np.testing.assert_array_equal(
        held_out.hallucinated(others),
        [a.name != b.name or a.style != b.style or a.pattern != b.pattern
         for a, b in zip(np.roll(held_out.scenes, 1), held_out.scenes, strict=True)],
    )  # fmt: skip
    noisy = held_out.truths + 0.1
    assert held_out.measured(noisy)["psnr"] == pytest.approx(20, abs=1e-3)
    # A mean over a square takes the sharpness of what is smaller.
    assert held_out.measured(held_out.enlarged)["sharpness"] < 0.6


def test_the_embedded_model_draws_what_was_there(scenes):
    held_out = scenes.pictures(3, 24, held_out=True)
    pipeline = draftx.load("tiny-sr")
    assert pipeline.conditioning_channels == 4
    images = draftx.sample(
        pipeline, held_out.seen, draftx.Sampling(8, 1.0), key=jr.key(0)
    )
    figures = held_out.measured(np.asarray(images))
    bicubic = held_out.measured(held_out.enlarged)
    assert figures["psnr"] > bicubic["psnr"] + 0.5
    assert figures["sharpness"] > bicubic["sharpness"] + 0.3
    assert figures["hallucinated"] <= bicubic["hallucinated"]


@pytest.mark.slow
def test_the_example(tmp_path):
    options = "--steps 2 --batch-size 2 --num-train 4 --num-test 10 --rank 2"
    options += (
        " --num-inference-steps 2 --truncation-steps 1 --feature all --base-steps 3"
    )
    result = subprocess.run(
        [
            *(sys.executable, "examples/super_resolution.py", *options.split()),
            f"--out={tmp_path}",
        ],
        cwd=_ROOT,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    features = summary["correlations"].keys()
    assert {"clip", "clip-tokens", "classifier", "classifier-tokens"} <= features
    rows = {"bicubic", "base", "base, 3 steps", *features}
    assert summary["figures"].keys() == rows
    assert all(0 < row[0]["lpips_form"] for row in summary["figures"].values())
    assert (tmp_path / "enlarged.png").stat().st_size > 0
    assert (tmp_path / "clip-0.safetensors").stat().st_size > 0
