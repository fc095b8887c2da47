"""Files that were scaled and mixed without a model, as diffusers reads them."""

import pytest
from safetensors.numpy import load_file, save_file

from draftx import load_lora, mix_lora, save_lora
from draftx.io import mix_lora_files

from ..helpers import relative_error
from .test_lora_names import kohya
from .test_oracle import our_noise, their_noise, TOLERANCE
from .tiny import random_lora


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spelled", [str, kohya])
def test_diffusers_reads_a_mixture_of_ranks(saved, pipeline, tmp_path, spelled):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for rank, (file, targets) in enumerate(
        zip(files, (("to_q", "to_k"), ("to_q", "proj_in")), strict=True), start=2
    ):
        adapted = random_lora(pipeline, rank, scale=0.2, targets=targets, seed=rank)
        save_lora(adapted, file)
        save_file({spelled(key): x for key, x in load_file(file).items()}, file)
    mix_lora_files(files, [0.5, -1.0], tmp_path / "mixed.safetensors")
    base = their_noise(torch, pipe.unet)
    pipe.load_lora_weights(str(tmp_path), weight_name="mixed.safetensors")
    theirs = their_noise(torch, pipe.unet)
    assert relative_error(base, theirs) > 0.01
    expected = mix_lora([load_lora(pipeline, file) for file in files], [0.5, -1.0])
    assert relative_error(our_noise(expected), theirs) < TOLERANCE
