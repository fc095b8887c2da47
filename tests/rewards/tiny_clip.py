"""The tiny CLIPs of the golden files, as published files and as rewards."""

import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

import draftx
from draftx.models import CLIPConfig

from ..goldens import make_clip


NAMES = tuple(make_clip.CASES)
_START, _END = "<|startoftext|>", "<|endoftext|>"


def golden(name) -> dict[str, np.ndarray]:
    with np.load(make_clip.FOLDER / f"score_{name}.npz") as file:
        return dict(file)


def config(name) -> dict:
    return make_clip.CASES[name][0]


def clip_config(name) -> CLIPConfig:
    return CLIPConfig.from_dict(config(name))


def state_dict(arrays) -> dict[str, np.ndarray]:
    shapes = json.loads(str(arrays["shapes"]))
    sizes = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    parts = np.split(arrays["state"].astype(np.float32), sizes[:-1])
    return {k: x.reshape(shapes[k]) for k, x in zip(shapes, parts, strict=True)}


def write(name, folder: pathlib.Path, arrays=None) -> dict[str, pathlib.Path]:
    """The files of a reward, as arguments of `draftx.rewards.load`."""
    state = state_dict(golden(name) if arrays is None else arrays)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    if name == "hpsv2":
        file = folder / "HPS.safetensors"
        save_file(state, file)
        return {"source": file, "tokenizer": folder}
    head = {k: state.pop(k) for k in list(state) if k.startswith("layers.")}
    save_file(state, folder / "model.safetensors")
    text = {"architectures": ["CLIPModel"], "model_type": "clip"} | config(name)
    (folder / "config.json").write_text(json.dumps(text))
    if name == "aesthetic":
        file = folder / "head.safetensors"
        save_file(head, file)
        return {"source": file, "clip": folder}
    return {"source": folder}


def write_tokenizer(folder: pathlib.Path) -> None:
    """Fourteen letters, each also as the end of a word, a merge, two special tokens."""
    letters = "abcdefghijklmn"
    vocab = [*letters, *(f"{letter}</w>" for letter in letters), "ab", _START, _END]
    ids = {token: i for i, token in enumerate(vocab)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 9}))


def load(name, folder, monkeypatch, **arguments):
    """By the public function; the one architecture it knows of is made the tiny one."""
    monkeypatch.setattr(draftx.rewards.zoo._hps, "VIT_H_14", clip_config("hpsv2"))
    return draftx.rewards.load(name, **write(name, folder), **arguments)
