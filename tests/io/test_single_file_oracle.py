"""Single files against diffusers, both ways: tensors and images."""

import json

import numpy as np
import pytest

from draftx import load, sample, Sampling, save

from ..helpers import relative_error
from .single_files import open_clip_pipeline
from .tiny import assert_equal


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PROMPTS = ["a cat", "do DOG"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


def _theirs(diffusers, file, folder):
    return diffusers.StableDiffusionPipeline.from_single_file(
        str(file), config=str(folder), local_files_only=True
    )


def _states(pipe):
    return {
        part: {k: v.numpy() for k, v in getattr(pipe, part).state_dict().items()}
        for part in ("unet", "vae", "text_encoder")
    }


def _assert_same_states(actual, expected):
    for part, state in expected.items():
        assert actual[part].keys() == state.keys()
        for key, array in state.items():
            np.testing.assert_array_equal(actual[part][key], array, key)


def test_diffusers_reads_our_file(diffusers, kept):
    _, folder, file = kept
    pipe = _theirs(diffusers, file, folder)
    of_folder = diffusers.StableDiffusionPipeline.from_pretrained(str(folder))
    _assert_same_states(_states(pipe), _states(of_folder))


def _images(torch, diffusers, pipe, pipeline, *, steps, guidance):
    """Of theirs and of ours, from the same latents."""
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    side = pipeline.unet.config.sample_size
    latents = np.random.default_rng(0).standard_normal((2, side, side, 4), np.float32)
    theirs = pipe(
        PROMPTS,
        num_inference_steps=steps,
        guidance_scale=guidance,
        height=side * 2 ** (len(pipeline.vae.config.block_out_channels) - 1),
        width=side * 2 ** (len(pipeline.vae.config.block_out_channels) - 1),
        latents=torch.from_numpy(np.moveaxis(latents, -1, 1).copy()),
        output_type="np",
    ).images
    sampling = Sampling(num_inference_steps=steps, guidance_scale=guidance)
    return sample(pipeline, PROMPTS, sampling, latents=latents), theirs


def test_images_of_a_single_file(torch, diffusers, kept):
    _, folder, file = kept
    pipe = _theirs(diffusers, file, folder)
    pipeline = load(file, config=str(folder))
    is_2 = pipeline.text_encoder.config.hidden_act == "gelu"
    predicts = "v_prediction" if is_2 else "epsilon"
    assert pipe.scheduler.config.prediction_type == predicts
    ours, theirs = _images(torch, diffusers, pipe, pipeline, steps=3, guidance=3.0)
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_we_read_what_pytorch_writes(torch, kept, tmp_path, ending):
    """A checkpoint with the names of the original code, made of diffusers' models."""
    pipeline, folder, file = kept
    from safetensors.torch import load_file, save_file

    state = load_file(file)
    path = tmp_path / f"model.{ending}"
    if ending == "ckpt":
        trained = {"optimizer_states": [{"state": {0: {"m": torch.ones(3)}}}]}
        scalars = {"epoch": 3, "best": np.float64(0.5)}
        torch.save({"state_dict": state, **trained, **scalars}, path)
    else:
        save_file(state, path)
    assert_equal(load(path, config=str(folder)), pipeline)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_turbo(torch, diffusers, tokenizer, tmp_path, steps):
    """A folder as SD-Turbo's: few steps, without guidance, from the last timestep."""
    save(open_clip_pipeline(tokenizer), tmp_path / "turbo")
    path = tmp_path / "turbo" / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    config |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    config |= {"prediction_type": "epsilon"}
    path.write_text(json.dumps(config))
    index = tmp_path / "turbo" / "model_index.json"
    index.write_text(index.read_text().replace("DDIMSch", "EulerDiscreteSch"))
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(tmp_path / "turbo"))
    pipeline = load(tmp_path / "turbo")
    ours, theirs = _images(torch, diffusers, pipe, pipeline, steps=steps, guidance=0.0)
    assert pipe.scheduler.timesteps[0] == 999
    assert relative_error(ours, theirs) < 1e-4
