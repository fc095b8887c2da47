"""Whole models in checkpoints of a trainer, of which nothing is run."""

import os
import pickle

import numpy as np
import pytest

from draftx import load
from draftx.io import ModelFileError

from .test_pickle import _Call, _Global, contiguous, write_zip, WRITERS
from .tiny import assert_equal


def _checkpoint(arrays):
    """As Lightning keeps it: callbacks by their classes, scalars of NumPy."""
    scalar = _Call(
        _Global("numpy.core.multiarray", "scalar"),
        _Call(_Global("numpy", "dtype"), "f8", 0, 1, state=(3, "<", None)),
        b"\0" * 8,
    )
    callback = _Global(
        "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"
    )
    state = {
        key: contiguous(
            array, str(i), f"{'Half' * (array.itemsize == 2) or 'Float'}Storage"
        )
        for i, (key, array) in enumerate(arrays.items())
    }
    return {
        "epoch": 6,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {callback: {"best_model_score": scalar, "monitor": "val/loss"}},
        "lr_schedulers": [_Call(_Global("omegaconf.dictconfig", "DictConfig"), {})],
        # Imported it would be an error, and run it would be worse.
        "hyper_parameters": _Call(
            _Global("numpy.testing.none", "runstring"), "1/0", {}
        ),
        "state_dict": state,
    }


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_checkpoints_of_a_trainer(pipeline, v1, tmp_path, suffix):
    arrays, folder = v1
    write = WRITERS["legacy" if suffix == ".pt" else "zip"]
    path = tmp_path / f"model{suffix}"
    write(path, _checkpoint(arrays))
    assert_equal(load(path, config=folder), pipeline)
    half = {key: array.astype(np.float16) for key, array in arrays.items()}
    write(path, _checkpoint(half))
    assert (
        load(path, dtype="stored", config=folder).unet.conv_in.bias.dtype == "float16"
    )


def test_a_flipped_bit_in_an_archive_is_found(v1, tmp_path):
    arrays, folder = v1
    write_zip(tmp_path / "x.ckpt", _checkpoint(arrays))
    data = bytearray((tmp_path / "x.ckpt").read_bytes())
    place = data.find(arrays["model.diffusion_model.out.2.bias"].tobytes())
    data[place] ^= 1
    (tmp_path / "x.ckpt").write_bytes(data)
    with pytest.raises(ModelFileError, match="cannot be read: .*checksum"):
        load(tmp_path / "x.ckpt", config=folder)


class _Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_nothing_of_a_checkpoint_is_run(tmp_path):
    target = tmp_path / "made"
    data = pickle.dumps({"callbacks": _Malicious(f"touch {target}")}, 2)
    write_zip(tmp_path / "x.ckpt", {}, pickled=data)
    with pytest.raises(ModelFileError, match="names `posix.system`, which was not run"):
        load(tmp_path / "x.ckpt")
    assert not target.exists()
    pickle.loads(data)
    assert target.exists()
