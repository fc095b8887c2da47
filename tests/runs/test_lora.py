"""`draftx lora`: the same numbers as in Python, and errors of a line."""

import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import draftx
from draftx.io import load_image_tokens, save_image_tokens
from draftx.lora import iter_lora
from draftx.models import ImageTokens
from draftx.runs import main

from ..io.tiny import assert_equal


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


def _rows(file, capsys):
    """What `draftx lora info` prints, by the names in front."""
    capsys.readouterr()
    assert main(["lora", "info", str(file)]) == 0
    rows = [
        line.strip().split("  ", 1) for line in capsys.readouterr().out.splitlines()
    ]
    return {name: text.strip() for name, text in rows}


def test_info(adapters, capsys):
    rows = _rows(adapters[0], capsys)
    assert rows["rank"] == "2"
    assert rows["alpha"] == "not said"
    assert rows["scale"] == "1 (alpha / rank)"
    assert rows["format"] == "diffusers' training scripts"
    assert rows["layers"].split()[0] in ("self_attention", "cross_attention")


def test_info_of_tokens_of_pictures_says_what_reads_them(
    short_pipeline, tmp_path, capsys
):
    config, file = short_pipeline.unet.config, tmp_path / "tokens.safetensors"
    tokens = ImageTokens(config, embedding_features=3, key=jax.random.key(0))
    save_image_tokens(tokens, file)
    assert main(["lora", "info", str(file)]) == 1
    error = capsys.readouterr().err
    assert "it is an IP-Adapter of one embedding, which `draftx.io.load_im" in error
    assert error.count("\n") == 1
    assert_equal(load_image_tokens(short_pipeline, file), tokens)


@pytest.mark.parametrize(
    ("format", "name", "said"),
    [
        ("kohya", "fox.safetensors", "kohya's scripts"),
        ("peft", "fox", "PEFT"),
        ("diffusers", "fox.safetensors", "diffusers' training scripts"),
    ],
)
def test_converted(adapters, short_pipeline, tmp_path, capsys, format, name, said):
    file, out = tmp_path / "run.safetensors", tmp_path / "new" / name
    adapted = draftx.load_lora(short_pipeline, adapters[1])
    about = {"base_model": "tiny", "reward": "mine.py:reward=1"}
    draftx.save_lora(adapted, file, metadata=about)
    flags = ["--format", format, "--trigger-words", "in fox style"]
    assert main(["lora", "convert", str(file), str(out), *flags]) == 0
    assert f"the adapter is in {out}" in capsys.readouterr().out
    _assert_equal(_updates(short_pipeline, out), _updates(short_pipeline, file))
    rows = _rows(out, capsys)
    assert rows["format"].startswith(said)
    assert rows["made for"].startswith("tiny")
    assert rows["rank"] == "3"
    assert rows["alpha"] == ("not said" if format == "diffusers" else "3")
    assert rows["scale"] == "1 (alpha / rank)"
    assert rows["reward"] == "mine.py:reward=1"
    assert rows["trigger words"] == "in fox style"
    assert rows["draftx version"] == draftx.__version__
    # And from there back, to the same file.
    back = tmp_path / "back.safetensors"
    assert main(["lora", "convert", str(out), str(back), "--format=diffusers"]) == 0
    for key, array in load_file(file).items():
        np.testing.assert_array_equal(load_file(back)[key], array)


def test_names_of_the_original_code_need_the_model(
    model, short_pipeline, tmp_path, capsys
):
    file, out = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    rng = np.random.default_rng(0)
    name = "lora_unet_input_blocks_1_0_emb_layers_1"
    arrays = {
        f"{name}.lora_{side}.weight": rng.random(shape, np.float32)
        for side, shape in (("down", (2, 32)), ("up", (8, 2)))
    }
    save_file(arrays, file)
    flags = ["convert", str(file), str(out), "--format", "kohya"]
    assert main(["lora", *flags]) == 1
    error = capsys.readouterr().err
    assert "Without a model" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]
    assert main(["lora", *flags, "--model", str(model)]) == 0
    _assert_equal(_updates(short_pipeline, out), _updates(short_pipeline, file))
    layer = "lora_unet_down_blocks_0_resnets_0_time_emb_proj"
    assert {key.split(".")[0] for key in load_file(out)} == {layer}


def test_what_is_not_converted_is_one_line(adapters, tmp_path, monkeypatch, capsys):
    a, there = str(adapters[0]), tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    before = adapters[0].read_bytes()
    # Whoever runs this test may be allowed to write anywhere.
    locked = tmp_path / "locked"
    locked.mkdir()
    allowed = lambda path, mode: os.fspath(path) != str(locked)
    monkeypatch.setattr(os, "access", allowed)
    new = str(tmp_path / "new.safetensors")
    for source, out, format, message in (
        (a, a, "kohya", "`output` must be another name than that of `file`"),
        (a, str(there), "kohya", "there.safetensors' exists. Choose another name"),
        (a, str(locked), "peft", "locked' exists. Choose another name"),
        (
            a,
            str(locked / "x.safetensors"),
            "kohya",
            "`output` must be in a folder that",
        ),
        (a, str(locked / "in" / "x"), "peft", "locked' is none"),
        (a, str(there / "x.safetensors"), "kohya", "there.safetensors' is none"),
        (a, str(tmp_path / "new"), "kohya", "`output` must end in .safetensors"),
        (a, str(tmp_path / "new"), "diffusers", "`output` must end in .safetensors"),
        (a, new, "peft", "`output` must be a folder of the adapter alone"),
        (str(there), new, "kohya", "cannot be read as safetensors"),
        ("no.safetensors", new, "kohya", "'no.safetensors' does not exist"),
        (str(locked), new, "kohya", "has neither"),
    ):
        assert main(["lora", "convert", source, out, "--format", format]) == 1
        error = capsys.readouterr().err
        assert error.startswith("draftx lora: ")
        assert message in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == [locked, there]
    assert there.read_bytes() == b"mine"
    assert adapters[0].read_bytes() == before


def test_scaled_and_mixed(adapters, model, short_pipeline, tmp_path, capsys):
    one, other = (_updates(short_pipeline, file) for file in adapters)
    out = tmp_path / "new" / "out.safetensors"
    assert main(["lora", "scale", str(adapters[0]), str(out), "--scale=-0.5"]) == 0
    _assert_equal(_updates(short_pipeline, out), {k: -0.5 * x for k, x in one.items()})
    a, b = map(str, adapters)
    expected = {k: x + 0.5 * one.get(k, 0 * x) for k, x in other.items()}
    for more in ([], ["--model", str(model)]):
        out.unlink()
        assert main(["lora", "mix", str(out), f"{a}=0.5", b, *more]) == 0
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
    assert f"`output` must be new; '{folder}' exists" in capsys.readouterr().err
    inside = str(model / "merged")
    assert main(["lora", "merge", *flags[:-1], inside]) == 1
    assert "`output` must be outside of `model`, of which" in capsys.readouterr().err


def test_what_is_there_is_not_replaced(adapters, model, tmp_path, capsys):
    """Whoever leaves out the new file names one of theirs in its place."""
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for copy, file in zip((a, b), adapters, strict=True):
        copy.write_bytes(file.read_bytes())
    link = tmp_path / "link.safetensors"
    link.symlink_to(a)
    for flags in (
        ["scale", a, a, "--scale", 2],
        ["scale", a, link, "--scale", 2],
        ["mix", a, f"{b}=0.5"],
        ["mix", b, a, "--model", model],
        ["merge", a, b, "--model", model],
    ):
        assert main(["lora", *map(str, flags)]) == 1
        assert "`output` must be new; " in capsys.readouterr().err
    for copy, file in zip((a, b), adapters, strict=True):
        assert copy.read_bytes() == file.read_bytes()
    assert sorted(tmp_path.iterdir()) == [a, b, link]


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
    names = ("info", "convert", "scale", "mix", "merge")
    assert all(f"\n  {name} " in out for name in names)
