"""Damaged, foreign and malicious files, by every command that reads one: an error of a
line that names the file, and nothing written."""

import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import draftx
from draftx.runs import main
from draftx.runs.commands import _convert, _lora, _lora_convert
from draftx.runs.config import _make

from ..io.test_damage import DAMAGE, header_cast
from ..io.test_pickle import contiguous, write_legacy, write_zip
from ..io.test_pickle_attacks import attacks


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265380512\n"
PAGE = b"\n<!DOCTYPE html><html>Entry not found</html>"


def _edited(edit):
    return lambda path, *_: path.write_bytes(edit(path.read_bytes()))


def _changed(change):
    """Changes the tensors, given them and one of their names."""

    def apply(path):
        arrays = load_file(path)
        change(arrays, min(arrays))
        save_file(arrays, path)

    return apply


def _of_another_shape(arrays, name):
    array = arrays[name]
    arrays[name] = np.ones((array.shape[0] + 1, *array.shape[1:]), array.dtype)


def _oddly_named(arrays, name):
    arrays[f"{name}\n\x1b[31m{'x' * 100_000}"] = arrays.pop(name)


SPOILT = {name: _edited(edit) for name, edit in DAMAGE.items()} | {
    "a pointer of Git LFS": _edited(lambda data: LFS),
    "a web page": _edited(lambda data: PAGE),
    "a pickle": _edited(lambda data: b"PK\x03\x04" + data),
    "float8": lambda path: header_cast(path, "F8_E4M3"),
    "integers": lambda path: header_cast(path, "I8"),
    "NaN": _changed(lambda a, name: a[name].fill(np.nan)),
    "a tensor is missing": _changed(lambda a, name: a.pop(name)),
    "a tensor without axes": _changed(
        lambda a, name: a.update({name: np.ones((), "f4")})
    ),
    "a tensor of another shape": _changed(_of_another_shape),
    "an empty tensor": _changed(lambda a, name: a.update({name: a[name][:0]})),
    "a tensor too many": _changed(lambda a, name: a.update({f"{name}.b": a[name]})),
    "a name for a terminal": _changed(_oddly_named),
}


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def refuses(tmp_path, capsys):
    """Runs a command that must not be able to read a file of this name."""

    def run(arguments, name):
        before = _files(tmp_path)
        before.pop("run/.lock", None)
        assert main([*map(str, arguments)]) == 1, arguments
        *_, line = error = capsys.readouterr().err.splitlines()
        # Above it is what was being done.
        assert [text for text in error if text.startswith("draftx ")] == [line]
        assert f"{name}'" in line
        assert re.search("must |cannot be read|does not fit|are missing", line)
        assert line.isprintable()
        assert len(line) < 2500
        # A run keeps others out while it lasts; the file by which it does so stays.
        after = _files(tmp_path)
        after.pop("run/.lock", None)
        assert after == before
        return line

    return run


def _of_adapter(file, model, folder):
    """The commands that read an adapter."""
    new = folder / "new.safetensors"
    prompts = ["--prompt", "a cat", "--output-dir", folder / "images"]
    yield "lora", "info", file
    yield "lora", "convert", file, new, "--format", "kohya"
    yield "lora", "convert", file, folder / "new", "--format", "peft", "--model", model
    yield "lora", "scale", file, new, "--scale", 2
    yield "lora", "mix", new, file, "--model", model
    yield "lora", "merge", file, folder / "new", "--model", model
    yield "convert", model, folder / "new", "--lora", file
    yield "sample", "--model", model, "--lora", file, *prompts
    training = ["--preset", "tiny", "--model", model, "--output-dir", folder / "run"]
    yield "train", *training, "--init-lora", file


@pytest.fixture
def loaded(short_pipeline, monkeypatch):
    """A model is not read again for each command."""
    for module in (_convert, _lora, _lora_convert, _make):
        monkeypatch.setattr(module, "load", lambda *_, **__: short_pipeline)


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("damage", SPOILT)
def test_an_adapter(adapters, model, refuses, tmp_path, damage):
    file = tmp_path / "a.safetensors"
    file.write_bytes(adapters[0].read_bytes())
    SPOILT[damage](file)
    for arguments in _of_adapter(file, model, tmp_path):
        # What it prints is in the header.
        if (damage, arguments[1]) != ("NaN", "info"):
            refuses(arguments, "a.safetensors")


STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


def _copied(model, folder):
    copy = folder / "model"
    for name, data in _files(model).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    return copy


@pytest.mark.parametrize("damage", SPOILT)
def test_a_folder(model, refuses, tmp_path, damage):
    part = [*STEMS][len(damage) % 3]
    copy = _copied(model, tmp_path)
    file = copy / part / f"{STEMS[part]}.safetensors"
    SPOILT[damage](file)
    refuses(["convert", copy, tmp_path / "new"], file.name)


@pytest.mark.parametrize("damage", SPOILT)
def test_a_single_file(short_pipeline, model, refuses, tmp_path, damage):
    file = tmp_path / "x.safetensors"
    draftx.save(short_pipeline, file)
    SPOILT[damage](file)
    refuses(["convert", file, tmp_path / "new", "--config", model], "x.safetensors")


def _pickled(path, arrays, *, write=write_zip, **options):
    tensors = {k: contiguous(x, str(i)) for i, (k, x) in enumerate(arrays.items())}
    write(path, {"state_dict": tensors}, **options)


def _flipped(data):
    """A bit of the last tensor, before the table at the end of the archive."""
    place = data.rindex(b"PK\x03\x04") - 8
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _compressed(path, arrays):
    _pickled(path, arrays, compression=zipfile.ZIP_DEFLATED)


def _of_1_5(path, arrays):
    _pickled(path, arrays, write=write_legacy)
    path.write_bytes(path.read_bytes()[:-5])


PICKLES = {
    "empty": lambda path, arrays: path.write_bytes(b""),
    "cut off": _edited(lambda data: data[: len(data) // 2]),
    "cut off, before 1.6": _of_1_5,
    "a flipped bit": _edited(_flipped),
    "compressed": _compressed,
    "no archive of PyTorch": lambda path, arrays: zipfile.ZipFile(path, "w").close(),
    "a pointer of Git LFS": lambda path, arrays: path.write_bytes(LFS),
    "a web page": lambda path, arrays: path.write_bytes(PAGE),
    "safetensors": lambda path, arrays: save_file(arrays, path),
    "a bare pickle": lambda path, arrays: path.write_bytes(pickle.dumps({}, 4)),
    "no tensors": lambda path, arrays: _pickled(path, {}),
}


def _of_model(file, model, folder, adapter):
    """The commands that read a model."""
    yield "convert", file, folder / "new", "--config", model
    yield "lora", "merge", adapter, folder / "new", "--model", file
    yield "lora", "convert", adapter, folder / "x", "--format", "peft", "--model", file
    prompts = ["--prompt", "a cat", "--output-dir", folder / "images"]
    yield "sample", "--model", file, *prompts
    training = ["--preset", "tiny", "--model", file, "--output-dir", folder / "run"]
    yield "train", *training


@pytest.mark.parametrize("damage", PICKLES)
def test_a_checkpoint(short_pipeline, model, adapters, refuses, tmp_path, damage):
    file = tmp_path / "x.ckpt"
    draftx.save(short_pipeline, tmp_path / "x.safetensors")
    arrays = load_file(tmp_path / "x.safetensors")
    _pickled(file, arrays)
    PICKLES[damage](file, arrays)
    convert, *others = _of_model(file, model, tmp_path, adapters[0])
    # All read it in the same way.
    for arguments in (convert, *others) if damage == "cut off" else (convert,):
        refuses(arguments, "x.ckpt")


@pytest.mark.parametrize("damage", PICKLES)
def test_a_folder_of_pickles(model, refuses, tmp_path, damage):
    copy = _copied(model, tmp_path)
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    file, arrays = whole.with_suffix(".bin"), load_file(whole)
    whole.unlink()
    _pickled(file, arrays)
    PICKLES[damage](file, arrays)
    refuses(["convert", copy, tmp_path / "new"], file.name)


@pytest.mark.parametrize("attack", attacks(""))
def test_a_malicious_pickle(model, adapters, refuses, tmp_path, attack):
    made, file = tmp_path / "made", tmp_path / "x.ckpt"
    write_zip(file, {}, pickled=attacks(made)[attack])
    convert, *others = _of_model(file, model, tmp_path, adapters[0])
    for arguments in (convert, *others) if attack == "os.system" else (convert,):
        assert "which was not run" in refuses(arguments, "x.ckpt")
    copy = _copied(model, tmp_path)
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    file.rename(copy / "vae" / "diffusion_pytorch_model.bin")
    line = refuses(["convert", copy, tmp_path / "new"], "diffusion_pytorch_model.bin")
    assert "which was not run" in line
    assert not made.exists()


def test_what_a_part_of_a_download_lacks(model, refuses, tmp_path):
    copy = _copied(model, tmp_path)
    convert = ["convert", copy, tmp_path / "new"]
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    partly = whole.with_name(f"{whole.name}.incomplete")
    whole.rename(partly)
    assert "must hold diffusion_pytorch_model.safetensors" in refuses(convert, "unet")
    index = whole.with_name(f"{whole.name}.index.json")
    names = "diffusion_pytorch_model-00001-of-00002.safetensors", "../../x.safetensors"
    for name, text in zip(names, ("1 are missing", "in its own folder"), strict=True):
        index.write_text(json.dumps({"weight_map": {"conv_in.bias": name}}))
        assert text in refuses(convert, index.name)
    index.unlink()
    partly.rename(whole)
    for name in ("unet/config.json", "scheduler/scheduler_config.json"):
        file = copy / name
        text = file.read_text()
        for damaged in ("", text[:50], "[]", "[" * 100_000):
            file.write_text(damaged)
            refuses(convert, file.name)
        file.write_bytes(b"\xff\xfe" + text.encode("utf-16"))
        refuses(convert, file.name)
        file.write_text(text)
