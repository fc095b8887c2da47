"""The command line of `memory_vs_k.py`, and its files."""

import json
import re
import types

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from .helpers import load


memory_vs_k, _rows, _plots = load("memory_vs_k"), load("_rows"), load("_plots")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--k 0", r"--k must lie in \[1, 10\], the sampling steps; got 0"),
        ("--k 1 11", r"--k must lie in \[1, 10\], the sampling steps; got 11"),
        ("--k 5 --num-inference-steps 4", r"--k must lie in \[1, 4\]"),
        ("--remat none half", "--remat: invalid choice: 'half'"),
        ("--method draft-lv --k 1", "--k is of --method draft"),
        ("--images-at-once 3", "--images-at-once must divide --batch, 4; got 3"),
        ("--images-at-once 0", "--images-at-once must divide --batch"),
        ("--batch 0", "--batch must be at least 1; got 0"),
        ("--num-inference-steps 0", "--num-inference-steps must be at least 1"),
        ("--num-inference-steps 1001", r"must lie in \[1, 1000\]; got 1001"),
        ("--model nowhere", "--model must be 'tiny', 'sd14-shape'.*got 'nowhere'"),
        ("--dtype float16", "--dtype: invalid choice"),
        (f"--out {__file__}", "--out must be a folder; got the file '.*py'"),
        (f"--cache {__file__}", "--cache must be a folder; got the file"),
    ],
)
def test_what_is_impossible_is_refused(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        memory_vs_k.parse_args(options.split())
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_defaults():
    args = memory_vs_k.parse_args([])
    assert (args.k, args.remat, args.batch) == ([1, 5, 10], ["block", "step"], 4)
    args = memory_vs_k.parse_args(["--model", "sd14-shape"])
    assert (args.k, args.remat) == ([1, 10, 50], ["step"])
    assert args.num_inference_steps == 50
    args = memory_vs_k.parse_args("--num-inference-steps 3 --remat ff ff".split())
    assert (args.k, args.remat) == ([1, 3], ["ff"])
    assert memory_vs_k.parse_args(["--method", "draft-lv"]).k == [1]


def test_a_table_a_file_and_a_plot(tmp_path, monkeypatch, capsys):
    # The cache is of the whole process, and this folder will be gone.
    monkeypatch.setattr(memory_vs_k, "use_cache", lambda folder: None)

    # In place of a gradient, which takes long to compile.
    def program(inputs, args, k, remat):
        del args, remat
        fn = lambda x: x[:k].reshape(-1, 4) @ jnp.ones((4, 4))
        latents = jax.ShapeDtypeStruct((2, 8, 8, 4), inputs.latents.dtype)
        return _rows.Program(fn, latents)

    monkeypatch.setattr(_rows, "_program", program)
    options = "--model small-shape --aot-only --k 1 2 --num-inference-steps 2 "
    options += "--batch 1 --remat step --no-warm --out"
    memory_vs_k.main([*options.split(), str(tmp_path)])
    printed = capsys.readouterr().out
    assert "beyond weights" in printed
    assert "from K=1 to K=2 temporaries grow by" in printed
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["arguments"]["batch"] == 1
    for row, k in zip(record["rows"], (1, 2), strict=True):
        assert row["k"] == k
        assert row["peak_mib"] > row["arguments_mib"] > 0
        assert row["executed_tflop"] >= row["model_tflop"] > 0
        assert "seconds" not in row
    assert path.with_suffix(".png").exists()


def test_growth_is_from_the_least_to_the_most_steps():
    latents = types.SimpleNamespace(size=2**18, dtype=np.dtype("float32"))
    rows = [
        {"k": k, "remat": remat, "temp_mib": temp}
        for k, remat, temp in [(50, "step", 130.0), (1, "step", 70.0), (1, "ff", 9.0)]
    ]
    rows.append({"k": 99, "remat": "step", "error": "out of memory"})
    (line,) = _rows.growth(rows, types.SimpleNamespace(latents=latents))
    assert line == (
        "remat step: from K=1 to K=50 temporaries grow by 60.0 MiB; stored latents are "
        "49.0 MiB"
    )


def test_rows_that_failed_are_left_out_of_the_plot(tmp_path):
    good = dict(peak_mib=5.0, arguments_mib=1.0)
    timed = dict(seconds=2.0, seconds_p10=1.0, seconds_p90=3.0)
    rows = [
        {"k": 1, "remat": "none"} | good | timed,
        {"k": 5, "remat": "none", "error": "out of memory"},
        {"k": 1, "remat": "step"} | good,
    ]
    _plots.plot_memory(tmp_path / "plot.png", rows, "title")
    image = matplotlib.image.imread(tmp_path / "plot.png")
    assert image.shape[1] > 1000
    assert image.std() > 0.01
