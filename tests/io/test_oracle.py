"""Folders and LoRA files against diffusers, transformers and PEFT, both ways."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from draftx import load, load_lora, save, save_lora
from draftx.models import checkpoint_arrays, CLIPTokenizer

from ..helpers import relative_error
from .tiny import (
    assert_equal,
    cast,
    random_lora,
    text_config,
    UNET,
    VAE,
    write_tokenizer,
)


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
TOLERANCE = 1e-4
PROMPTS = ["a cat", "do DOG", ""]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def diffusers():
    pytest.importorskip("peft")
    return pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def theirs_saved(torch, diffusers, tmp_path_factory):
    """A random pipeline made and saved by diffusers."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("diffusers")
    ours = write_tokenizer(folder / "source")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder / "source"))
    torch.manual_seed(0)
    fields = dataclasses.asdict
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**fields(VAE)),
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                **fields(text_config(ours)),
                bos_token_id=ours.vocab_size - 2,
                eos_token_id=ours.vocab_size - 1,
                pad_token_id=ours.vocab_size - 1,
            )
        ),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**fields(UNET)),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for model in (pipe.unet, pipe.vae, pipe.text_encoder):
        for parameter in model.parameters():  # Biases are zero at first.
            parameter.data += 0.1 * torch.randn_like(parameter)
    pipe.save_pretrained(folder / "model")
    return pipe, folder / "model"


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def inputs(num_features):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    return draw(2, 8, 8, 4), np.asarray([1, 801], np.int32), draw(2, 9, num_features)


def our_noise(pipeline):
    latents, timesteps, context = inputs(12)
    return channels_first(eqx.filter_jit(pipeline.unet)(latents, timesteps, context))


def their_noise(torch, unet):
    latents, timesteps, context = inputs(12)
    latents = torch.from_numpy(channels_first(latents).copy())
    with torch.no_grad():
        out = unet(latents, torch.from_numpy(timesteps), torch.from_numpy(context))
    return out.sample.numpy()


def assert_same_outputs(torch, pipe, pipeline):
    assert (
        relative_error(our_noise(pipeline), their_noise(torch, pipe.unet)) < TOLERANCE
    )

    latents, _, _ = inputs(12)
    images = np.random.default_rng(1).random((2, 16, 16, 3), np.float32)
    with torch.no_grad():
        theirs = torch.from_numpy(channels_first(latents).copy())
        decoded = pipe.vae.decode(theirs / VAE.scaling_factor).sample.numpy()
        pixels = torch.from_numpy(channels_first(2 * images - 1).copy())
        mean = pipe.vae.encode(pixels).latent_dist.mean.numpy()
    ours = eqx.filter_jit(pipeline.vae.decode_unclipped)(latents)
    assert relative_error(channels_first(2 * ours - 1), decoded) < TOLERANCE
    ours, _ = eqx.filter_jit(pipeline.vae.posterior)(jnp.asarray(images))
    assert relative_error(channels_first(ours), mean) < TOLERANCE

    ids = pipe.tokenizer(
        PROMPTS, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    np.testing.assert_array_equal(pipeline.tokenize(PROMPTS), ids.numpy())
    with torch.no_grad():
        hidden = pipe.text_encoder(ids).last_hidden_state.numpy()
    ours = eqx.filter_jit(pipeline.embed)(pipeline.tokenize(PROMPTS))
    assert relative_error(ours, hidden) < TOLERANCE


def test_diffusers_saves_and_we_load(torch, theirs_saved):
    pipe, folder = theirs_saved
    pipeline = load(folder)
    assert_same_outputs(torch, pipe, pipeline)
    schedule = pipeline.sampler.config.alphas_cumprod()
    np.testing.assert_allclose(schedule, pipe.scheduler.alphas_cumprod, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_we_save_and_diffusers_loads(torch, diffusers, pipeline, tmp_path, dtype):
    ours = cast(pipeline, dtype)
    save(ours, tmp_path / "model")
    pipe, problems = (
        diffusers.DiffusionPipeline.from_pretrained(
            str(tmp_path / "model"), torch_dtype="auto"
        ),
        [],
    )
    for name in ("unet", "vae", "text_encoder"):
        model = getattr(pipe, name).float()
        state = {k: v.numpy() for k, v in model.state_dict().items()}
        for key, array in checkpoint_arrays(getattr(ours, name)).items():
            if name == "text_encoder" and key not in state:
                key = key.removeprefix("text_model.")
            if not np.array_equal(state.pop(key), array.astype(np.float32)):
                problems.append(key)
        assert all(key.endswith("position_ids") for key in state)
    assert problems == []
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert pipe.scheduler.config.steps_offset == 1
    loaded = load(tmp_path / "model")
    assert_same_outputs(torch, pipe, loaded)
    assert pipe.text_encoder.config.eos_token_id == pipeline.tokenizer.vocab_size - 1


def test_our_folder_goes_through_diffusers_unchanged(diffusers, pipeline, tmp_path):
    save(pipeline, tmp_path / "ours")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(tmp_path / "ours"))
    pipe.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    for name in ("unet", "vae", "text_encoder", "sampler"):
        assert_equal(getattr(again, name), getattr(pipeline, name))
    np.testing.assert_array_equal(again.tokenize(PROMPTS), pipeline.tokenize(PROMPTS))


def test_a_tokenizer_json_alone(theirs_saved):
    _, folder = theirs_saved
    files = {p.name for p in (folder / "tokenizer").iterdir()}
    assert "tokenizer.json" in files or "vocab.json" in files
    assert CLIPTokenizer.from_folder(folder / "tokenizer").max_length == 9


def test_diffusers_loads_our_lora(torch, diffusers, pipeline, saved, tmp_path):
    adapted = random_lora(pipeline, rank=3, scale=0.1)
    save_lora(adapted, tmp_path / "x.safetensors")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
    base = their_noise(torch, pipe.unet)
    pipe.load_lora_weights(str(tmp_path), weight_name="x.safetensors")
    theirs = their_noise(torch, pipe.unet)
    assert relative_error(base, theirs) > 0.01
    assert relative_error(our_noise(adapted), theirs) < TOLERANCE
    ids = torch.from_numpy(np.asarray(pipeline.tokenize(PROMPTS)).astype(np.int64))
    with torch.no_grad():
        hidden = pipe.text_encoder(ids).last_hidden_state.numpy()
    ours = eqx.filter_jit(adapted.embed)(pipeline.tokenize(PROMPTS))
    assert relative_error(ours, hidden) < TOLERANCE


def test_we_load_the_lora_of_peft(torch, diffusers, pipeline, saved, tmp_path):
    peft = pytest.importorskip("peft")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj"]
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=targets, init_lora_weights=False
    )
    pipe.unet.add_adapter(config)
    torch.manual_seed(1)
    for name, parameter in pipe.unet.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter)
    theirs = their_noise(torch, pipe.unet)
    state = peft.get_peft_model_state_dict(pipe.unet)
    pipe.save_lora_weights(
        tmp_path / "with_metadata",
        unet_lora_layers=state,
        unet_lora_adapter_metadata=config.to_dict(),
    )
    ours = our_noise(load_lora(pipeline, tmp_path / "with_metadata"))
    assert relative_error(ours, theirs) < TOLERANCE
    pipe.unet.save_lora_adapter(tmp_path / "unet_alone")
    ours = our_noise(load_lora(pipeline, tmp_path / "unet_alone"))
    assert relative_error(ours, theirs) < TOLERANCE
