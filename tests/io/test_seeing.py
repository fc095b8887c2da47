"""Files of models that see more than a text: InstructPix2Pix's, and painting ones."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx
from draftx import load, load_lora, sample, Sampling, save, save_lora
from draftx.io import check_saved, ModelFileError, save_component
from draftx.models import UNet2DConditionModel

from .tiny import assert_equal, random_lora, random_model, UNET


# Of images in [0, 1].
TOLERANCE = 1e-4
PROMPTS = ["a cat", "do DOG"]
ROWS = {
    "prompt": PROMPTS,
    "negative_prompt": ["dog", ""],
    "conditioning_image": np.random.default_rng(0).random((2, 16, 16, 3), np.float32),
}
LATENTS = np.random.default_rng(1).standard_normal((2, 8, 8, 4), np.float32)


def _unet(in_channels):
    config = dataclasses.replace(UNET, in_channels=in_channels)
    return random_model(UNet2DConditionModel, config, np.random.default_rng(2))


def _seeing(pipeline, channels):
    return dataclasses.replace(pipeline, unet=_unet(4 + channels))


@pytest.fixture(scope="module")
def seeing(pipeline):
    return _seeing(pipeline, 4)


@pytest.mark.parametrize(
    ("channels", "kind"),
    [
        (4, "StableDiffusionInstructPix2PixPipeline"),
        (5, "StableDiffusionInpaintPipeline"),
        (1, "StableDiffusionPipeline"),
    ],
)
def test_a_folder_says_what_its_model_sees(pipeline, tmp_path, channels, kind):
    seeing = _seeing(pipeline, channels)
    save(seeing, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == kind
    config = json.loads((tmp_path / "model" / "unet" / "config.json").read_text())
    assert config["in_channels"] == 4 + channels
    assert_equal(load(tmp_path / "model"), seeing)
    check_saved(seeing, tmp_path / "model")


def test_a_single_file_of_it(seeing, tmp_path):
    save(seeing, tmp_path / "model")
    save(seeing, tmp_path / "x.safetensors")
    config = str(tmp_path / "model")
    assert_equal(load(tmp_path / "x.safetensors", config=config), seeing)
    check_saved(seeing, tmp_path / "x.safetensors")


def test_a_model_that_was_made_to_see(pipeline, tmp_path):
    made = draftx.add_conditioning_image(pipeline)
    save(made, tmp_path / "model")
    assert_equal(load(tmp_path / "model"), made)


def test_its_adapter(seeing, tmp_path):
    adapted = draftx.add_lora(
        seeing, rank=2, targets=["conv_in", "to_k"], key=jax.random.key(0)
    )
    for format in ("diffusers", "kohya"):
        path = tmp_path / f"{format}.safetensors"
        save_lora(adapted, path, format=format)
        assert_equal(
            draftx.lora_state_dict(load_lora(seeing, path)),
            draftx.lora_state_dict(adapted),
        )


def test_a_unet_of_too_few_channels(folder):
    save_component(_unet(3), folder / "unet")
    with pytest.raises(ModelFileError, match="do not fit: `unet` must take at least"):
        load(folder)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", [2.5, 1.0])
def test_diffusers_draws_the_same_images(seeing, tmp_path, scale):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    adapted = random_lora(seeing, targets="attn2.to_v")
    seeing = draftx.merge_lora(adapted)
    save(seeing, tmp_path / "model")
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path / "model"))
    assert isinstance(pipe, diffusers.StableDiffusionInstructPix2PixPipeline)
    pipe.set_progress_bar_config(disable=True)
    first = lambda x: torch.from_numpy(np.moveaxis(x, -1, 1).copy())
    expected = pipe(
        PROMPTS,
        image=first(ROWS["conditioning_image"]),
        negative_prompt=ROWS["negative_prompt"],
        latents=first(LATENTS),
        num_inference_steps=3,
        guidance_scale=scale,
        image_guidance_scale=1.0,
        output_type="np",
    ).images
    sampling, rows = Sampling(3, scale), dict(ROWS)
    if scale == 1.0:
        del rows["negative_prompt"]
    found = np.asarray(sample(seeing, rows, sampling, latents=LATENTS))
    assert np.abs(found - expected).max() < TOLERANCE
    # What they see is most of it.
    dark = rows | {"conditioning_image": 0.1 * ROWS["conditioning_image"]}
    other = np.asarray(sample(seeing, dark, sampling, latents=LATENTS))
    assert np.abs(other - expected).max() > 100 * TOLERANCE


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_what_diffusers_saves_is_read(seeing, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    save(seeing, tmp_path / "ours")
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path / "ours"))
    pipe.save_pretrained(tmp_path / "theirs")
    loaded = load(tmp_path / "theirs")
    assert jnp.array_equal(loaded.unet.conv_in.weight, seeing.unet.conv_in.weight)
    same = jax.tree.map(jnp.array_equal, *map(_arrays, (loaded, seeing)))
    assert all(jax.tree.leaves(same))


def _arrays(pipeline):
    return jax.tree.leaves(eqx.filter(pipeline, eqx.is_array))
