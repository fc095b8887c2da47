"""Folders whose weights are PyTorch's files: read, where there are no safetensors."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from draftx import load
from draftx.io import load_component, ModelFileError
from draftx.models import UNet2DConditionModel

from .test_pickle import contiguous, write_legacy, write_zip
from .tiny import assert_equal, cast


# Without the ending, as diffusers and transformers call them.
PICKLES = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "pytorch_model",
}


def as_pickle(source, path, *, dtype=np.float32, write=write_zip, keys=None):
    """Writes tensors of a safetensors file as `torch.save` does."""
    arrays = load_file(source)
    kind = {np.float32: "FloatStorage", np.float16: "HalfStorage"}[dtype]
    tree = {
        key: contiguous(arrays[key].astype(dtype), str(i), kind)
        for i, key in enumerate(arrays if keys is None else keys)
    }
    write(path, tree)


def _safetensors(folder, part):
    (path,) = (folder / part).glob("*.safetensors")
    return path


def _only_pickles(folder, end=".bin", **options):
    for part, stem in PICKLES.items():
        source = _safetensors(folder, part)
        as_pickle(source, folder / part / f"{stem}{end}", **options)
        source.unlink()


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_they_are_read(pipeline, folder, write):
    _only_pickles(folder, write=write)
    assert_equal(load(folder), pipeline)


def test_safetensors_go_first(pipeline, folder):
    for part, stem in PICKLES.items():
        (folder / part / f"{stem}.bin").write_bytes(b"never opened")
    assert_equal(load(folder), pipeline)
    # Those of float16 too, which are read where there are no others.
    path = _safetensors(folder, "unet")
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert_equal(load(folder), pipeline)


def test_variants(pipeline, folder):
    _only_pickles(folder, ".fp16.bin", dtype=np.float16)
    half = cast(pipeline, np.float16)
    assert_equal(load(folder, dtype="stored", variant="fp16"), half)
    assert_equal(load(folder, dtype="stored"), half)
    with pytest.raises(ModelFileError) as caught:
        load(folder, variant="bf16")
    text = str(caught.value)
    assert "no part has weights of that name. It holds" in text
    assert "pytorch_model.fp16.bin: pass `variant='fp16'` to `draftx.load`" in text


def test_a_variant_that_is_alone_is_named(folder):
    source = _safetensors(folder, "unet")
    as_pickle(source, folder / "unet/diffusion_pytorch_model.non_ema.bin")
    source.rename(source.with_name("model.ckpt"))
    with pytest.raises(ModelFileError) as caught:
        load(folder)
    text = str(caught.value)
    assert "diffusion_pytorch_model.non_ema.bin: pass `variant='non_ema'`" in text
    assert "model.ckpt is not read: it must be called diffusion_pytorch_model.bin" in (
        text
    )


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(pipeline, folder, variant):
    source, end = _safetensors(folder, "unet"), "" if variant is None else f".{variant}"
    keys = sorted(load_file(source))
    names = [f"diffusion_pytorch_model{end}-0000{i}-of-00002.bin" for i in (1, 2)]
    for i, name in enumerate(names):
        as_pickle(source, folder / "unet" / name, keys=keys[i::2])
    source.unlink()
    index = folder / "unet" / f"diffusion_pytorch_model.bin.index{end}.json"
    where = {key: names[i % 2] for i, key in enumerate(keys)}
    index.write_text(json.dumps({"weight_map": where}))
    assert_equal(load(folder), pipeline)
    unet = load_component(UNet2DConditionModel, folder / "unet", variant=variant)
    assert_equal(unet, pipeline.unet)
    (folder / "unet" / names[1]).unlink()
    with pytest.raises(ModelFileError, match=f"1 are missing: {names[1]}"):
        load(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.bin"}}))
    with pytest.raises(ModelFileError, match="must name files in its own folder"):
        load(folder)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_what_diffusers_saves_as_pickles(pipeline, saved, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
    torch = pytest.importorskip("torch")
    pipe.save_pretrained(tmp_path / "theirs")
    for part, stem in PICKLES.items():
        pipe_part = getattr(pipe, part)
        _safetensors(tmp_path / "theirs", part).unlink()
        state = pipe_part.state_dict()
        torch.save(state, tmp_path / "theirs" / part / f"{stem}.bin")
    loaded = load(tmp_path / "theirs")
    for part in PICKLES:
        assert_equal(getattr(loaded, part), getattr(pipeline, part))
