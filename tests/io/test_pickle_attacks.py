"""Pickles that would do harm, by every way that a pickle is read: nothing is run, and
nothing is written."""

import os
import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

import draftx
from draftx import load, load_embedding, load_lora
from draftx.io import load_component, ModelFileError, save_component
from draftx.io.formats import read_torch_file
from draftx.models import UNet2DConditionModel

from ..rewards import tiny_clip
from .test_pickle import (
    _Call,
    _Global,
    _Pickler,
    _Storage,
    contiguous,
    dump,
    tensor,
    write_legacy,
    write_zip,
)


A = np.arange(6, dtype=np.float32).reshape(2, 3)


class _Pickled:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def _shell(target):
    return f"touch {target}"


def attacks(target):
    """Pickles that make the file `target`, when `pickle.load` is given them."""
    code = f"open({str(target)!r}, 'w').close()"
    ordered = _Global("collections", "OrderedDict")
    evaluate = _Call(_Global("builtins", "eval"), code)
    return {
        "os.system": pickle.dumps({"w": _Pickled(os.system, _shell(target))}, 2),
        "a framed call": pickle.dumps({"w": _Pickled(os.system, _shell(target))}, 4),
        "text": pickle.dumps({"w": _Pickled(eval, code)}, 0),
        "inside what is allowed": pickle.dumps(
            {"w": _Pickled(set, [_Pickled(eval, code)])}, 2
        ),
        "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93X"
        + len(_shell(target)).to_bytes(4, "little")
        + _shell(target).encode()
        + b"\x85R.",
        "an instance": f"(S'{_shell(target)}'\nios\nsystem\n.".encode(),
        "an object": f"(cos\nsystem\nS'{_shell(target)}'\no.".encode(),
        "a call in a call": _pickle_of({"w": _Call(ordered, [["w", evaluate]])}),
    }


def _pickle_of(tree):
    return dump(_Pickler, tree)


_READERS = ["file", "model", "network", "word.pt", "word.bin", "hpsv2", "aesthetic"]


@pytest.fixture(params=[*_READERS, "lpips"])
def read(request, pipeline, tmp_path, monkeypatch):
    """Reads a pickle as a user's file of some kind."""
    published = tiny_clip.clip_config("hpsv2")
    monkeypatch.setattr(draftx.rewards.zoo._hps, "VIT_H_14", published)
    clip = tmp_path / "clip"
    tiny_clip.write("aesthetic", clip)
    options = {"references": np.zeros((1, 32, 32, 3), np.float32)}
    of = draftx.rewards.load
    ways = {
        "file": read_torch_file,
        "network": lambda path: _load_network(pipeline, path),
        "model": lambda path: load(path.rename(path.with_suffix(".ckpt"))),
        "word.pt": lambda path: load_embedding(pipeline, path, "<b>"),
        "word.bin": lambda path: load_embedding(pipeline, path.parent, "<b>"),
        "hpsv2": lambda path: of("hpsv2", path, tokenizer=clip),
        "aesthetic": lambda path: of("aesthetic", path, clip=clip),
        "lpips": lambda path: of("lpips-alex", path, options=options),
    }
    path = tmp_path / "file" / "learned_embeds.bin"
    path.parent.mkdir()
    return lambda: ways[request.param](path), path


def _load_network(pipeline, path):
    """As the weights in the folder of a UNet."""
    folder = path.parent / "unet"
    save_component(pipeline.unet, folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    path.rename(folder / "diffusion_pytorch_model.bin")
    load_component(UNet2DConditionModel, folder)


@pytest.mark.parametrize("attack", attacks(""))
def test_nothing_is_run(read, attack, tmp_path):
    call, path = read
    target = tmp_path / "made"
    data = attacks(target)[attack]
    write_zip(path, {}, pickled=data)
    with pytest.raises(ModelFileError, match="was not run"):
        call()
    assert not target.exists()
    # It is the reader that refuses it: the pickle does work.
    pickle.loads(data)
    assert target.exists()


# An audit hook is never taken away: this one hears nothing but in one test.
_listeners: list[list[str]] = []


def _hear(event, args):
    if event == "open" and _listeners:
        _listeners[0].append(str(args[0]))


def test_pickles_that_no_reader_opens(pipeline, tmp_path):
    """Adapters are read from safetensors alone."""
    path = tmp_path / "lora.bin"
    path.write_bytes(attacks(tmp_path / "made")["os.system"])
    opened = []
    sys.addaudithook(_hear)
    _listeners.append(opened)
    try:
        with pytest.raises(ModelFileError, match="Pickles are not read"):
            load_lora(pipeline, path)
        tmp_path.joinpath("heard").write_text("")
    finally:
        _listeners.clear()
    assert any(name.endswith("heard") for name in opened)
    assert not [name for name in opened if name.endswith(".bin")]
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["../../made", "/made", "..\\made", "a/../../made"])
def test_names_in_an_archive_lead_nowhere(name, tmp_path):
    path = tmp_path / "deep" / "er" / "model.pth"
    path.parent.mkdir(parents=True)
    storage = _Storage("FloatStorage", A.ravel(), name)
    write_zip(path, {"w": tensor(storage, (2, 3), (3, 1))}, extra={name: b"x"})
    before = sorted(tmp_path.rglob("*"))
    # Members are read where they are, whatever they are called.
    np.testing.assert_array_equal(read_torch_file(path)["w"], A)
    write_zip(path, {}, pickled=_pickle_of({"w": tensor(storage, (2, 3), (3, 1))}))
    (tmp_path / "made").write_bytes(A.tobytes())
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_torch_file(path)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "made"])


def test_what_unpacks_to_more_than_the_file(tmp_path):
    """Compressed members, sizes that lie, and one storage as a thousand tensors."""
    path = tmp_path / "model.pth"
    big = {"w": contiguous(np.zeros(10**6, np.float32))}
    write_zip(path, big, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    storage = _Storage("FloatStorage", A.ravel())
    many = {str(i): tensor(storage, (2**27,), (0,)) for i in range(1000)}
    lying = b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"x."
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="is compressed"):
            read_torch_file(path)
        write_zip(path, {}, pickled=lying)
        with pytest.raises(ModelFileError, match="cannot be read"):
            read_torch_file(path)
        write_zip(path, many)
        with pytest.raises(ModelFileError, match="tensors of about its own size"):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 10**8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((2, 3), (3, 1), 1),
        ((2, 3), (4, 1), 0),
        ((2,), (-1,), 1),
        ((-2,), (1,), 0),
        ((2,), (1,), -1),
        ((2, 2), (2**62, 1), 0),
        ((2**62, 2**62), (0, 0), 0),
        ((2,), (1.0,), 0),
        ((2,), (1,), 2**63),
    ],
)
def test_tensors_lie_within_their_storage(write, shape, strides, offset, tmp_path):
    path = tmp_path / "model.pth"
    storage = _Storage("FloatStorage", A.ravel())
    write(path, {"w": tensor(storage, shape, strides, offset=offset)})
    with pytest.raises(ModelFileError, match="cannot be read|own size"):
        read_torch_file(path)
