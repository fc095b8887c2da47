"""Damaged and foreign files, by every way that a file of tensors is read."""

import json
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load, load_file, save, save_file

import draftx
from draftx import load_embedding, load_lora, save_lora
from draftx.io import load_component, ModelFileError
from draftx.io.checkpoints import CheckpointStore
from draftx.models import UNet2DConditionModel

from ..rewards import tiny_clip
from .tiny import random_lora


class Reader(NamedTuple):
    """Reads what a user names, of which one file is to be damaged."""

    file: os.PathLike
    read: Callable[[], object]


@pytest.fixture(scope="module")
def sound(saved, pipeline, tmp_path_factory):
    """A folder with a whole file for each reader."""
    root = tmp_path_factory.mktemp("sound")
    shutil.copytree(saved / "unet", root / "unet")
    save_lora(
        random_lora(pipeline, targets=("to_q", "to_v")), root / "lora.safetensors"
    )
    words = np.random.default_rng(0).standard_normal((2, 12), np.float32)
    save_file({"<toy>": words}, root / "word.safetensors")
    tiny_clip.write("hpsv2", root / "hps")
    store = CheckpointStore(root / "checkpoints")
    store.save(1, {"x": words, "y": words + 1}, {})
    return root


_MODELS = ["network", "lora", "word", "reward"]


@pytest.fixture(params=[*_MODELS, "checkpoint"])
def reader(request, sound, pipeline, tmp_path, monkeypatch):
    root = shutil.copytree(sound, tmp_path / "files")
    published = tiny_clip.clip_config("hpsv2")
    monkeypatch.setattr(draftx.rewards.zoo._hps, "VIT_H_14", published)
    unet, hps = root / "unet", root / "hps" / "HPS.safetensors"
    lora, word = root / "lora.safetensors", root / "word.safetensors"
    state = root / "checkpoints" / "step-00000001" / "state.safetensors"
    return {
        "network": Reader(
            unet / "diffusion_pytorch_model.safetensors",
            lambda: load_component(UNet2DConditionModel, unet),
        ),
        "lora": Reader(lora, lambda: load_lora(pipeline, lora)),
        "word": Reader(word, lambda: load_embedding(pipeline, word, "<b>")),
        "reward": Reader(
            hps, lambda: draftx.rewards.load("hpsv2", hps, tokenizer=hps.parent)
        ),
        "checkpoint": Reader(
            state, lambda: CheckpointStore(root / "checkpoints").read(1)
        ),
    }[request.param]


def _parts(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _first(header):
    """The name of the tensor whose bytes come first."""
    names = [name for name in header if name != "__metadata__"]
    return min(names, key=lambda name: header[name]["data_offsets"])


def _last(header):
    names = [name for name in header if name != "__metadata__"]
    return max(names, key=lambda name: header[name]["data_offsets"])


def _moved(by):
    def edit(data):
        header, body = _parts(data)
        name = _last(header)
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin + by, end + by]
        return _joined(header, body + bytes(max(by, 0)))

    return edit


def _typed(data):
    header, body = _parts(data)
    header[_first(header)]["dtype"] = "F33"
    return _joined(header, body)


def _twice(data):
    header, body = _parts(data)
    name = _first(header)
    again = f"{{{json.dumps(name)}: {json.dumps(header[name])}, ".encode()
    return _joined(again + json.dumps(header).encode()[1:], body)


DAMAGE = {
    "empty": lambda data: b"",
    "a header that ends": lambda data: data[:40],
    "values that end": lambda data: data[:-3],
    "something after the end": lambda data: data + b"trailing",
    "a header of exabytes": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "a header too deep": lambda data: _joined(b'{"a":' + b"[" * 200_000, b""),
    "values that overlap": _moved(-4),
    "a hole": _moved(4),
    "an unknown dtype": _typed,
    "a name twice": _twice,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_and_nothing_is_loaded(reader, damage):
    reader.read()
    with open(reader.file, "r+b") as file:
        data = DAMAGE[damage](file.read())
        file.seek(0)
        file.truncate()
        file.write(data)
    # A checkpoint is known by its folder, whose hashes are wrong.
    name = reader.file.name if "step" not in str(reader.file) else "step-00000001"
    with pytest.raises(ModelFileError, match=f"{name}' (cannot|must)"):
        reader.read()


def test_a_flipped_bit_is_an_error_or_a_value(reader):
    """In the header no flip is more than a `ModelFileError`; of values only a hash can
    tell, which published rewards, downloads and checkpoints have."""
    whole = reader.file.read_bytes()
    rng = np.random.default_rng(0)
    end = 8 + int.from_bytes(whole[:8], "little")
    for place in (*rng.integers(0, end, 8), *rng.integers(end, len(whole), 2)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        reader.file.write_bytes(flipped)
        try:
            reader.read()
        except ModelFileError:
            continue
        assert "step" not in str(reader.file)


def _cast(file, dtype):
    arrays = {name: x.astype(dtype) for name, x in load_file(file).items()}
    save_file(arrays, file)


def header_cast(file, dtype):
    """Of dtypes that NumPy lacks: a file of zeros."""
    arrays = load(file.read_bytes())
    header, _ = _parts(save({k: x.astype(np.int8) for k, x in arrays.items()}))
    for entry in header.values():
        entry["dtype"] = dtype
    file.write_bytes(_joined(header, bytes(sum(x.size for x in arrays.values()))))


@pytest.mark.parametrize("reader", _MODELS, indirect=True)
@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_floats_of_any_size_are_cast(reader, dtype):
    _cast(reader.file, dtype)
    reader.read()


@pytest.mark.parametrize("dtype", ["I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"])
def test_weights_that_are_no_floats_are_refused(reader, dtype):
    header_cast(reader.file, dtype)
    with pytest.raises(ModelFileError, match="must (hold weights in one of|be as)"):
        reader.read()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(reader, value):
    arrays = load_file(reader.file)
    for name in arrays:
        arrays[name].flat[-1] = value
    save_file(arrays, reader.file)
    with pytest.raises(ModelFileError, match="must (hold finite weights|be as its)"):
        reader.read()


@pytest.mark.parametrize("reader", ["network"], indirect=True)
def test_integers_among_the_weights(reader):
    """The numbers of positions, which old files have, are no weights."""
    arrays = load_file(reader.file)
    save_file(arrays | {"position_ids": np.arange(9)}, reader.file)
    reader.read()
