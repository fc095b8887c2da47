"""Damaged files, and writing."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from draftx import load
from draftx.io import ModelFileError
from draftx.io.formats import first_five
from draftx.io.formats._atomic import new_folder, write_file
from draftx.io.formats._safetensors import TensorFile, write_tensors


GOOD = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)})


def with_header(header, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if size is None else size
    return length.to_bytes(8, "little") + text + bytes(16)


def entry(offsets, dtype="F32", shape=(4,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD[:4],
        GOOD[:40],
        GOOD[:-1],
        GOOD + b"trailing",
        b"PK\x03\x04" + bytes(100),
        with_header({"a": entry((0, 16))}, size=2**62),
        with_header(b"\xff\xfe not json"),
        with_header({"a": entry((0, 12))}),
        with_header({"a": entry((0, 16)), "b": entry((8, 24))}),
        with_header({"a": entry((0, 16), shape=(2**40, 2**40))}),
        with_header({"a": entry((0, 16), dtype="F1000")}),
        with_header([1, 2]),
    ],
    ids=lambda content: content[:12].hex() or "empty",
)
def test_damaged_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"damaged\.safetensors' cannot be read"):
        TensorFile(path)


@pytest.mark.parametrize(
    ("start", "ending", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "x", "`git lfs pull` gets"),
        (b"\r\n<!doctype HTML><html>", "x", "is a page of the web: download"),
        (b"<html lang='en'><head></head></html>", "x", "is a page of the web"),
        (b"GGUF\x03\0\0\0", "x", "is a GGUF file, and quantized files are not"),
        (b"PK\x03\x04\0\0\x08\x08", "safetensors", "looks like a file of PyTorch"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9", "safetensors", "like a file of PyTorch"),
        (b'\x40\0\0\0\0\0\0\0{"a":{}}', "ckpt", "must end in .safetensors then"),
        # What it should be, and damaged.
        (b'\x3c\0\0\0\0\0\0\0{"a":{}}', "safetensors", "is damaged or only"),
        (b"PK\x03\x04\0\0\x08\x08", "ckpt", "is damaged or only partly there"),
        (b"", "x", "is damaged or only partly there"),
    ],
)
def test_what_is_something_else_is_said(tmp_path, start, ending, message):
    for suffix in (".ckpt", ".safetensors") if ending == "x" else (f".{ending}",):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(start)
        with pytest.raises(ModelFileError, match=f"{path.name}' .*{message}"):
            load(path)


def test_names_of_others_are_written_out():
    text = first_five(["a\x1b[2J\r\nb\0\u202e", "é 狐", "y" * 300])
    more = "y" * 200 + "... and 100 more letters"
    assert text == rf"a\x1b[2J\r\nb\x00\u202e, é 狐, {more}"


def test_a_folder_or_nothing_is_refused_too(tmp_path):
    for path in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(ModelFileError, match="cannot be read as safetensors"):
            TensorFile(path)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_arrays_with_strides_are_stored_right(tmp_path, dtype):
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    arrays = {"transposed": x.T, "sliced": x[:, ::2], "reversed": x[::-1], "plain": x}
    path = tmp_path / "deep" / "er" / "x.safetensors"
    write_tensors(path, arrays)
    for key, array in load_file(path).items():
        np.testing.assert_array_equal(array, arrays[key])
        assert array.dtype == dtype
    assert TensorFile(path).metadata == {"format": "pt"}


def _dead():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_kill_left_of_a_file_goes_with_the_next(tmp_path):
    """That of the same name alone, and of processes that are no more."""
    path, dead, alive = tmp_path / "x.safetensors", _dead(), os.getpid()
    left = tmp_path / f".x.safetensors.tmp-{dead}-01234567"
    kept = [
        tmp_path / f".{name}.tmp-{pid}-01234567"
        for name, pid in (("x.safetensors", alive), ("y.safetensors", dead))
    ]
    for file in (left, *kept):
        file.write_bytes(b"half")
    write_tensors(path, {"a": np.ones(3)})
    assert sorted(tmp_path.iterdir()) == sorted([path, *kept])


def test_what_a_kill_left_of_a_folder_goes_with_the_next(tmp_path):
    """But for what was there before it, while nothing else has its place."""
    path, dead = tmp_path / "model", _dead()
    half = tmp_path / f".model.tmp-{dead}-01234567"
    before = tmp_path / f".model.old-{dead}-01234567"
    for folder in (half, before):
        folder.mkdir()
        (folder / "x").write_text("1")
    with new_folder(path):
        pass
    assert sorted(tmp_path.iterdir()) == [before, path]
    with new_folder(path):
        pass
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 255, "狐" * 85])
def test_the_longest_names_can_be_written(tmp_path, name):
    write_tensors(tmp_path / name, {"a": np.ones(3)})
    (tmp_path / name).unlink()
    with new_folder(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_says_which_file(tmp_path, monkeypatch):
    """Which the system does not when something is written into an open file."""

    def write_nothing(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", write_nothing)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.safetensors'"):
        write_tensors(tmp_path / "x.safetensors", {"a": np.ones(3)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full disk")
def test_tensors_on_a_full_disk_say_so(tmp_path, monkeypatch):
    """As the system says it, and not by how many bytes could not be written."""
    to = pathlib.Path.open
    monkeypatch.setattr(
        pathlib.Path,
        "open",
        lambda path, mode="r": to(
            pathlib.Path("/dev/full") if "w" in mode else path, mode
        ),
    )
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.safetensors'"):
        write_tensors(tmp_path / "x.safetensors", {"a": np.ones(10**6)})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def fail(temporary):
        temporary.write_bytes(b"half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old.txt").write_text("old")
    rename = os.rename

    def fail(source, target):
        if ".tmp-" in str(source):
            raise OSError("busy")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="busy"), new_folder(path):
        pass
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "old.txt"]
