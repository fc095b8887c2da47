"""Names inside of files, which a stranger wrote: none leads out of its folder."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_embedding, load_lora, save
from draftx.io import load_component, ModelFileError
from draftx.io.checkpoints import CheckpointStore
from draftx.models import UNet2DConditionModel


_OUTSIDE = [
    "../made",
    "../../../../made",
    "/made",
    "a/../../made",
    "..\\made",
    "C:\\made",
    "~/made",
    "made\0",
    "",
    ".",
    "..",
    "CON",
    "nul",
    "Com1",
    "a" * 300,
    "é",
    "made\n",
]


@pytest.mark.parametrize("name", _OUTSIDE, ids=repr)
def test_shards_lie_beside_their_index(name, saved, tmp_path):
    stem = "diffusion_pytorch_model.safetensors"
    folder = tmp_path / "deep" / "unet"
    folder.mkdir(parents=True)
    for made in (tmp_path / "made.safetensors", folder.parent / "made.safetensors"):
        made.write_bytes((saved / "unet" / stem).read_bytes())
    (folder / "config.json").write_bytes((saved / "unet/config.json").read_bytes())
    index = {"weight_map": {"conv_in.bias": f"{name}.safetensors"}}
    (folder / f"{stem}.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="must name files in its own folder; got"):
        load_component(UNet2DConditionModel, folder)


@pytest.mark.parametrize("name", _OUTSIDE, ids=repr)
def test_names_of_tensors_are_no_paths(name, pipeline, tmp_path):
    """They are refused by name, or are names of words, which are no paths either."""
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "x.safetensors"
    save_file({f"{name}.lora.down.weight": np.zeros((2, 8), np.float32)}, file)
    with pytest.raises(ModelFileError, match="belong to no linear layer"):
        load_lora(pipeline, file)
    save_file({name: np.zeros(12, np.float32)}, file)
    try:
        taught = load_embedding(pipeline, file)
    except ValueError:
        pass
    else:
        save(taught, tmp_path / "deep" / "model")
    store = CheckpointStore(tmp_path / "deep" / "checkpoints")
    store.save(1, {name: np.ones(2)}, {name: 1})
    assert list(store.read(1).arrays) == [name]
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert load_file(file).keys() == {name}
