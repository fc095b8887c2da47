"""`draftx convert`: the same tensors in another layout, and errors before any work."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import draftx
from draftx.io import ModelFileError
from draftx.io.pipeline import check_saved
from draftx.runs import main
from draftx.runs.commands import _convert

from ..io.test_pickle import contiguous, write_zip
from ..io.tiny import assert_equal, cast


def _convert_model(*arguments):
    return main(["convert", *map(str, arguments)])


def _bytes(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_as_one_file_and_back(model, tmp_path, capsys):
    file, folder = tmp_path / "new" / "x.safetensors", tmp_path / "sd-v1.4"
    assert _convert_model(model, file) == 0
    out = capsys.readouterr().out.splitlines()
    size = file.stat().st_size
    assert out[0].split() == [f"{size / 1000:.4g}", "kB", "x.safetensors"]
    assert out[1] == (
        f"the model is in {file}: {size / 1000:.4g} kB, read again and compared"
    )
    assert "none of the published ones" in out[2]
    assert _convert_model(file, folder, "--config", model) == 0
    out = capsys.readouterr().out
    assert "kB  unet/diffusion_pytorch_model.safetensors\n" in out
    assert "B  model_index.json\n" in out
    assert _bytes(folder) == _bytes(model)


@pytest.mark.parametrize("dtype", ["stored", "float32", "float16", "bfloat16"])
def test_dtypes(short_pipeline, tmp_path, dtype):
    # What the file has is neither of what is computed in by default.
    half = cast(short_pipeline, "float16")
    draftx.save(half, tmp_path / "in")
    assert _convert_model(tmp_path / "in", tmp_path / "out", "--dtype", dtype) == 0
    expected = half if dtype == "stored" else cast(half, dtype)
    assert_equal(draftx.load(tmp_path / "out", dtype="stored"), expected)


def test_a_checkpoint_and_a_variant(short_pipeline, model, tmp_path):
    one, ckpt = tmp_path / "x.safetensors", tmp_path / "x.ckpt"
    draftx.save(short_pipeline, one)
    arrays = load_file(one)
    state = {key: contiguous(x, str(i)) for i, (key, x) in enumerate(arrays.items())}
    write_zip(ckpt, {"state_dict": state, "epoch": 1})
    assert _convert_model(ckpt, tmp_path / "y.safetensors", "--config", model) == 0
    assert (tmp_path / "y.safetensors").read_bytes() == one.read_bytes()
    for path in [*_copy(model, tmp_path / "of_variant").rglob("*.safetensors")]:
        path.rename(path.with_suffix(".bf16.safetensors"))
    arguments = (tmp_path / "of_variant", tmp_path / "out", "--variant", "bf16")
    assert _convert_model(*arguments) == 0
    assert_equal(draftx.load(tmp_path / "out"), short_pipeline)


def _copy(model, target):
    for name, data in _bytes(model).items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return target


def test_an_adapter_is_merged(short_pipeline, model, adapters, tmp_path):
    flags = ["--lora", adapters[1], "--lora-scale", "0.5"]
    assert _convert_model(model, tmp_path / "out", *flags) == 0
    adapted = draftx.load_lora(short_pipeline, adapters[1], scale=0.5)
    expected = draftx.merge_lora(adapted)
    merged = draftx.load(tmp_path / "out")
    for actual, array in zip(*map(jax.tree.leaves, (merged, expected)), strict=True):
        np.testing.assert_allclose(np.asarray(actual), np.asarray(array), 1e-6, 1e-6)
    # Changed, and in the dtype that the model has.
    assert not np.array_equal(
        merged.unet.mid_block.attentions[0].proj_in.weight,
        short_pipeline.unet.mid_block.attentions[0].proj_in.weight,
    )


@pytest.mark.parametrize("name", ["out", "out.safetensors"])
def test_a_bit_that_changes_on_its_way_is_an_error(
    model, tmp_path, monkeypatch, capsys, name
):
    def save(pipeline, path):
        draftx.save(pipeline, path)
        files = [path] if path.is_file() else [*path.rglob("unet/*.safetensors")]
        data = bytearray(files[0].read_bytes())
        data[-1] ^= 1
        files[0].write_bytes(data)

    before = _bytes(model)
    monkeypatch.setattr(_convert, "save", save)
    assert _convert_model(model, tmp_path / name) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("draftx convert: ")
    assert "must hold what was written; read again, " in error
    assert "Nothing was deleted" in error
    assert (tmp_path / name).exists()
    assert _bytes(model) == before


def test_what_is_beside_the_tensors_is_compared_too(short_pipeline, tmp_path):
    folder = tmp_path / "out"
    draftx.save(short_pipeline, folder)
    sizes = check_saved(short_pipeline, folder)
    assert sizes.keys() == _bytes(folder).keys()
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("0.012", "0.02"))
    path = folder / "vae" / "config.json"
    path.write_text(path.read_text().replace("0.18215", "0.2"))
    with pytest.raises(
        ModelFileError, match="config of vae, the noise schedule differ"
    ):
        check_saved(short_pipeline, folder)
    draftx.save(short_pipeline, tmp_path / "x.safetensors")
    arrays = load_file(tmp_path / "x.safetensors")
    arrays["first_stage_model.more"] = arrays.pop("model.diffusion_model.out.2.bias")
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="first_stage_model.more, model.diffusion"):
        check_saved(short_pipeline, tmp_path / "x.safetensors")


_KILLED = """
import os, sys
import draftx.io.formats._atomic as atomic
from draftx.runs import main
kill = lambda *_: os.kill(os.getpid(), 9)
setattr(atomic if sys.argv[1] == "_fsync" else os, sys.argv[1], kill)
main(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out", "out.safetensors"])
@pytest.mark.parametrize("at", ["_fsync", "rename"])
def test_a_kill_leaves_nothing_that_looks_whole(model, tmp_path, at, name):
    """When some of it is on disk, and when all is but its name."""
    out = tmp_path / name
    at = "replace" if (at, name) == ("rename", "out.safetensors") else at
    convert = ["convert", str(model), str(out)]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _KILLED, at, *convert]
    assert subprocess.run(command, env=env, stderr=-1).returncode == -signal.SIGKILL
    assert not out.exists()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".{name}.tmp-")
    assert main(convert) == 0
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_not_converted_is_one_line(
    model, adapters, tmp_path, monkeypatch, capsys
):
    there, locked = tmp_path / "there", tmp_path / "locked"
    there.write_bytes(b"mine")
    locked.mkdir()
    # Whoever runs this test may be allowed to write anywhere.
    allowed = lambda path, mode: os.fspath(path) != str(locked)
    monkeypatch.setattr(os, "access", allowed)
    loaded = []
    monkeypatch.setattr(_convert, "load", lambda *_, **__: loaded.append(1))
    new, a = tmp_path / "new", str(adapters[0])
    for arguments, message in (
        (["no/such/model", new], "`source` must be 'tiny', 'tiny-sr', a folder, a "),
        ([tmp_path / "absent.ckpt", new], "absent.ckpt' is none"),
        ([model, there], "`output` must be new; "),
        ([model, locked], "locked' exists. Choose another name"),
        ([model, locked / "x"], "`output` must be in a folder that can be written to"),
        ([model, there / "x"], "there' is none"),
        ([model, model], "`output` must be outside of `source`"),
        ([model, model / "unet" / "new"], "`output` must be outside of `source`"),
        ([model, pathlib.Path(f"{model}/../{model.name}/x")], "must be outside of"),
        ([model, tmp_path / "x.ckpt"], "ends in .safetensors; got"),
        ([model, tmp_path / "x.bin"], "ends in .safetensors; got"),
        ([model, tmp_path / "x.Safetensors"], "ends in .safetensors; got"),
        ([model, new, "--lora", "absent"], "'absent' does not exist"),
        ([model, new, "--lora-scale", "2"], "`lora_scale` must be 1 without `lora`"),
        ([model, new, "--lora", a, "--lora-scale", "nan"], "`lora_scale` must be fin"),
    ):
        assert _convert_model(*arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("draftx convert: ")
        assert message in error
        assert error.count("\n") == 1
    assert loaded == []
    assert sorted(tmp_path.iterdir()) == [locked, there]
    assert there.read_bytes() == b"mine"


def test_what_only_the_model_can_say(model, tmp_path, capsys):
    new = tmp_path / "new"
    for arguments, message in (
        ([model, new, "--config", "v1"], "`config` must be None unless `source` is a"),
        ([model, new, "--variant", "fp16"], "`variant` must be None or a variant that"),
    ):
        assert _convert_model(*arguments) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
