"""`draftx lora`: the same numbers as in Python, and errors of a line."""

import jax
import numpy as np
import pytest

import draftx
from draftx.lora import iter_lora
from draftx.runs import main


def _updates(pipeline, file):
    layers = dict(iter_lora(draftx.load_lora(pipeline, file)))
    return {
        name: np.asarray(layer.lora_up) @ np.asarray(layer.lora_down)
        for name, layer in layers.items()
    }


def _assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, update in expected.items():
        np.testing.assert_allclose(actual[name], update, 1e-4, 1e-4)


def test_info(adapters, capsys):
    assert main(["lora", "info", str(adapters[0])]) == 0
    rows = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    rows = dict(rows[:-1])
    assert rows["rank"] == "2"
    assert rows["alpha"] == "not said"
    assert rows["scale"] == "1 (alpha / rank)"
    assert rows["format"] == "diffusers' training scripts"
    assert rows["layers"].split()[0] in ("self_attention", "cross_attention")


def test_scaled_and_mixed(adapters, model, short_pipeline, tmp_path, capsys):
    one, other = (_updates(short_pipeline, file) for file in adapters)
    out = str(tmp_path / "new" / "out.safetensors")
    assert main(["lora", "scale", str(adapters[0]), out, "--scale=-0.5"]) == 0
    _assert_equal(_updates(short_pipeline, out), {k: -0.5 * x for k, x in one.items()})
    a, b = map(str, adapters)
    expected = {k: x + 0.5 * one.get(k, 0 * x) for k, x in other.items()}
    for more in ([], ["--model", str(model)]):
        assert main(["lora", "mix", out, f"{a}=0.5", b, *more]) == 0
        _assert_equal(_updates(short_pipeline, out), expected)
    assert f"the adapter is in {out}" in capsys.readouterr().out


def test_merged(adapters, model, short_pipeline, tmp_path, capsys):
    folder = tmp_path / "merged"
    flags = ["--model", str(model), str(adapters[0]), str(folder)]
    assert main(["lora", "merge", *flags, "--lora-scale", "2"]) == 0
    merged = draftx.load(folder)
    adapted = draftx.load_lora(short_pipeline, adapters[0], scale=2.0)
    expected = draftx.merge_lora(adapted)
    for actual, array in zip(*map(jax.tree.leaves, (merged, expected)), strict=True):
        np.testing.assert_allclose(np.asarray(actual), np.asarray(array), 1e-6, 1e-6)
    capsys.readouterr()
    assert main(["lora", "merge", *flags]) == 1
    assert "`output` must be a folder that is new or empty" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(adapters, tmp_path, capsys):
    a, out = str(adapters[0]), str(tmp_path / "out.safetensors")
    for flags, message in (
        (["info", str(tmp_path / "no.safetensors")], "does not exist"),
        (["scale", a, out, "--scale", "nan"], "`scale` must be finite"),
        (["scale", a, str(tmp_path / "out"), "--scale", "1"], "must end in .safeten"),
        (["mix", out, f"{a}=x"], "`files` must have a finite number after '='"),
        (["mix", out, f"{a}=inf"], "`files` must have a finite number after '='"),
        (["merge", "--model", "tiny", "no.safetensors", out], "does not exist"),
        (["mix", out, "no.safetensors=2"], "'no.safetensors' does not exist"),
        (["mix", out], "`files` must name at least one adapter"),
    ):
        assert main(["lora", *flags]) == 1
        error = capsys.readouterr().err
        assert error.startswith("draftx lora: ")
        assert message in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert main(["lora", "mx"]) == 2
    assert "there is no 'mx'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main(["lora", "scale", a, out])
    assert error.value.code == 2


def test_help_is_of_the_table(capsys):
    assert main(["lora"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("info", "scale", "mix", "merge"))
