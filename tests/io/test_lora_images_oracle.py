"""Images with adapters: ours in diffusers and PEFT, theirs in draftx, all formats."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from draftx import load_lora, sample, Sampling, save_lora

from .test_lora_formats import FORMATS, target


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
# Of images in [0, 1], and how much more an adapter must change them.
TOLERANCE, MORE = 1e-4, 100
PROMPTS = ["a cat", "do DOG"]
SAMPLING = Sampling(num_inference_steps=2, guidance_scale=3.0)
LATENTS = np.random.default_rng(0).standard_normal((2, 8, 8, 4), np.float32)
# Linear layers, convolutions and 1x1 convolutions; of the text encoder linear layers.
TARGETS = {
    "unet": ["to_q", "to_out.0", "ff.net.2", "proj_in", "conv1"],
    "text_encoder": ["q_proj", "fc2"],
}
RANK, ALPHA = 2, 3


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("peft")
    return pytest.importorskip("torch")


@pytest.fixture
def pipe(torch, saved):
    diffusers = pytest.importorskip("diffusers")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(saved))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(pipeline):
    return np.asarray(sample(pipeline, PROMPTS, SAMPLING, latents=LATENTS))


def theirs(torch, pipe):
    return pipe(
        PROMPTS,
        latents=torch.from_numpy(np.moveaxis(LATENTS, -1, 1).copy()),
        num_inference_steps=2,
        guidance_scale=3.0,
        height=16,
        width=16,
        output_type="np",
    ).images


def farthest(one, other):
    return np.abs(one - other).max()


@pytest.fixture(scope="module")
def without(pipeline):
    """The images of the base model."""
    return ours(pipeline)


@pytest.mark.parametrize("of", ["scaled_everywhere", "uneven"])
@pytest.mark.parametrize("format", FORMATS)
def test_with_our_files(torch, pipe, without, tmp_path, request, of, format):
    adapted = request.getfixturevalue(of)
    assert farthest(theirs(torch, pipe), without) < TOLERANCE
    path = target(tmp_path, format)
    save_lora(adapted, path, format=format)
    if format == "peft":
        peft = pytest.importorskip("peft")
        # The layers are changed in place.
        peft.PeftModel.from_pretrained(pipe.unet, str(path))
        peft.PeftModel.from_pretrained(
            pipe.text_encoder, str(path), subfolder="text_encoder"
        )
    else:
        pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    images = theirs(torch, pipe)
    assert farthest(images, without) > MORE * TOLERANCE
    assert farthest(images, ours(adapted)) < TOLERANCE


def _config():
    peft = pytest.importorskip("peft")
    return {
        part: peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=names, init_lora_weights=False
        )
        for part, names in TARGETS.items()
    }


def _draw_factors(torch, *models):
    torch.manual_seed(1)
    for model in models:
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = 0.3 * torch.randn_like(parameter)


def _by_peft(torch, pipe, path):
    peft = pytest.importorskip("peft")
    for part, config in _config().items():
        model = peft.get_peft_model(getattr(pipe, part), config)
        _draw_factors(torch, model)
        model.save_pretrained(path / part)
    return path


def _adapted(torch, pipe):
    """Adds adapters as training scripts do; gives what those save, by part."""
    peft = pytest.importorskip("peft")
    for part, config in _config().items():
        peft.inject_adapter_in_model(config, getattr(pipe, part))
    _draw_factors(torch, pipe.unet, pipe.text_encoder)
    parts = {part: getattr(pipe, part) for part in TARGETS}
    return {k: peft.get_peft_model_state_dict(model) for k, model in parts.items()}


def _by_diffusers(torch, pipe, path):
    states = _adapted(torch, pipe)
    config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["-"]}
    pipe.save_lora_weights(
        path,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=states["text_encoder"],
        unet_lora_adapter_metadata=config,
        text_encoder_lora_adapter_metadata=config,
    )
    return path


def _by_the_rule_of_kohya(torch, pipe, path):
    arrays = {}
    for part, state in _adapted(torch, pipe).items():
        for key, tensor in state.items():
            module, letter = key.removesuffix(".weight").split(".lora_")
            # The module `text_model` is the model itself since transformers 5.
            whole = f"text_model.{module.removeprefix('text_model.')}"
            name = f"unet.{module}" if part == "unet" else f"te.{whole}"
            flat = f"lora_{name.replace('.', '_')}"
            side = {"A": "down", "B": "up"}[letter]
            arrays[f"{flat}.lora_{side}.weight"] = tensor.numpy()
            arrays[f"{flat}.alpha"] = np.asarray(ALPHA, np.float32)
    save_file(arrays, path / "x.safetensors")
    return path / "x.safetensors"


def _by_diffusers_for_kohya(torch, pipe, path):
    """As its training scripts write their copy for the web UI: with alpha the rank."""
    utils = pytest.importorskip("diffusers.utils")
    state = {
        f"{part}.{key}": tensor
        for part, state in _adapted(torch, pipe).items()
        for key, tensor in state.items()
    }
    state = utils.convert_state_dict_to_kohya(
        utils.convert_all_state_dict_to_peft(state)
    )
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    assert any(key.startswith("lora_unet_") for key in arrays)
    alphas = [key for key in arrays if key.endswith(".alpha")]
    arrays |= dict.fromkeys(alphas, np.asarray(ALPHA, np.float32))
    save_file(arrays, path / "x.safetensors")
    return path / "x.safetensors"


@pytest.mark.parametrize(
    "write",
    [_by_peft, _by_diffusers, _by_the_rule_of_kohya, _by_diffusers_for_kohya],
)
def test_with_their_files(torch, pipe, pipeline, without, tmp_path, write):
    path = write(torch, pipe, tmp_path)
    images = theirs(torch, pipe)
    assert farthest(images, without) > MORE * TOLERANCE
    adapted = load_lora(pipeline, path)
    assert farthest(images, ours(adapted)) < TOLERANCE
    # Not without the scale of 3 / 2.
    unscaled = load_lora(pipeline, path, scale=RANK / ALPHA)
    assert farthest(images, ours(unscaled)) > MORE * TOLERANCE
