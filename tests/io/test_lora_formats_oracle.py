"""Adapters in all formats against the programs that they are for, both ways."""

import hashlib
import json

import equinox as eqx
import numpy as np
import pytest
from safetensors.numpy import load_file

from draftx import load_lora, save, save_lora
from draftx.lora import iter_lora
from draftx.models import map_layers

from ..helpers import relative_error
from .test_lora import updates
from .test_lora_formats import header, KOHYA
from .test_oracle import our_noise, PROMPTS, their_noise, TOLERANCE
from .tiny import random_lora


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def pipe(torch, saved):
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline.from_pretrained(str(saved))


def our_text(pipeline):
    return eqx.filter_jit(pipeline.embed)(pipeline.tokenize(PROMPTS))


def their_text(torch, pipe, pipeline):
    ids = torch.from_numpy(np.asarray(pipeline.tokenize(PROMPTS)).astype(np.int64))
    with torch.no_grad():
        return pipe.text_encoder(ids).last_hidden_state.numpy()


def assert_equal_outputs(torch, pipe, pipeline, base):
    assert relative_error(our_noise(base), our_noise(pipeline)) > 0.01
    assert relative_error(our_noise(pipeline), their_noise(torch, pipe.unet)) < (
        TOLERANCE
    )
    assert relative_error(our_text(base), our_text(pipeline)) > 0.01
    theirs = their_text(torch, pipe, pipeline)
    assert relative_error(our_text(pipeline), theirs) < TOLERANCE


@pytest.mark.parametrize("of", ["scaled_everywhere", "uneven"])
@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_diffusers_opens(torch, pipe, pipeline, tmp_path, request, of, format):
    adapted = request.getfixturevalue(of)
    save_lora(adapted, tmp_path / "x.safetensors", format=format)
    pipe.load_lora_weights(str(tmp_path), weight_name="x.safetensors")
    assert_equal_outputs(torch, pipe, adapted, pipeline)
    adapters = [m for m in pipe.unet.modules() if hasattr(m, "lora_A")]
    adapters += [m for m in pipe.text_encoder.modules() if hasattr(m, "lora_A")]
    assert len(adapters) == len([*iter_lora(adapted)])
    assert {value for m in adapters for value in m.scaling.values()} == {1.0}


@pytest.mark.parametrize("of", ["scaled_everywhere", "uneven"])
def test_peft_opens(torch, pipe, pipeline, tmp_path, request, of):
    peft = pytest.importorskip("peft")
    adapted = request.getfixturevalue(of)
    save_lora(adapted, tmp_path, format="peft")
    unet = peft.PeftModel.from_pretrained(pipe.unet, str(tmp_path))
    text = peft.PeftModel.from_pretrained(
        pipe.text_encoder, str(tmp_path), subfolder="text_encoder"
    )
    # The layers are changed in place.
    assert_equal_outputs(torch, pipe, adapted, pipeline)
    for model, folder in ((unet, tmp_path), (text, tmp_path / "text_encoder")):
        found = peft.get_peft_model_state_dict(model)
        written = load_file(folder / "adapter_model.safetensors")
        assert found.keys() == written.keys()


def test_peft_is_given_the_tensors(torch, pipe, scaled_everywhere, tmp_path):
    peft = pytest.importorskip("peft")
    save_lora(scaled_everywhere, tmp_path, format="peft")
    unet = peft.get_peft_model(pipe.unet, peft.LoraConfig.from_pretrained(tmp_path))
    arrays = load_file(tmp_path / "adapter_model.safetensors")
    state = {key: torch.from_numpy(array) for key, array in arrays.items()}
    result = peft.set_peft_model_state_dict(unet, state)
    assert result.unexpected_keys == []
    assert not any("lora_" in key for key in result.missing_keys)
    ours, theirs = our_noise(scaled_everywhere), their_noise(torch, pipe.unet)
    assert relative_error(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("layout", ["of the example of PEFT", "of ours"])
def test_what_peft_saves_is_read(torch, pipe, pipeline, tmp_path, layout):
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    folders = {"unet": tmp_path / "unet", "text_encoder": tmp_path / "text_encoder"}
    if layout == "of ours":
        folders["unet"] = tmp_path
    for name, targets in (
        ("unet", ["to_q", "to_out.0", "conv1", "proj_in"]),
        ("text_encoder", ["q_proj", "fc2"]),
    ):
        config = peft.LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=targets,
            rank_pattern={targets[-1]: 1},
            alpha_pattern={targets[0]: 5},
            use_rslora=name == "unet",
            init_lora_weights=False,
        )
        model = peft.get_peft_model(getattr(pipe, name), config)
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.data = 0.5 * torch.randn_like(parameter)
        model.save_pretrained(folders[name])
    assert_equal_outputs(torch, pipe, load_lora(pipeline, tmp_path), pipeline)


def their_updates(torch, model, prefix):
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            (adapter,) = module.lora_A
            with torch.no_grad():
                delta = module.get_delta_weight(adapter).numpy()
            if prefix == "text_encoder." and not name.startswith("text_model."):
                name = f"text_model.{name}"
            found[prefix + name] = delta
    return found


def test_diffusers_opens_every_layer_of_stable_diffusion_1(torch, like_sd1, tmp_path):
    """The same update of each of the 354 layers, through diffusers' own converter."""
    diffusers = pytest.importorskip("diffusers")
    save(like_sd1, tmp_path / "model")
    adapted = random_lora(like_sd1, 2, scale=0.5, mapped=map_layers)
    expected = updates(adapted)
    for format in ("diffusers", "kohya"):
        save_lora(adapted, tmp_path / "x.safetensors", format=format)
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(
            str(tmp_path / "model")
        )
        pipe.load_lora_weights(str(tmp_path / "x.safetensors"))
        theirs = their_updates(torch, pipe.unet, "unet.")
        theirs |= their_updates(torch, pipe.text_encoder, "text_encoder.")
        assert theirs.keys() == expected.keys()
        assert len(theirs) == 354
        for name, update in expected.items():
            delta = theirs[name]
            # Ours are [outputs, height * width * inputs].
            delta = np.moveaxis(delta, 1, -1).reshape(update.shape)
            np.testing.assert_allclose(delta, update, 1e-4, 1e-5, err_msg=name)


# The classes in which kohya's scripts look for layers: of the first linear ones and 1x1
# convolutions alone, without `conv_dim`.
_CLASSES = {
    "networks.lora": ("Transformer2DModel", "CLIPAttention", "CLIPMLP"),
    "conv_dim": ("ResnetBlock2D", "Downsample2D", "Upsample2D"),
}


def test_the_layers_that_kohya_adapts(torch, like_sd1, tmp_path):
    """Found as its scripts find them, by classes, in the models of diffusers."""
    diffusers = pytest.importorskip("diffusers")
    save(like_sd1, tmp_path / "model")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(tmp_path / "model"))
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    found = {
        # Since version 5 of transformers the module `text_model` is the model itself.
        kind: {
            f"{prefix}.{name}.{inside}".replace("text_model.text_model", "text_model")
            for prefix, model in (
                ("lora_unet", pipe.unet),
                ("lora_te.text_model", pipe.text_encoder),
            )
            for name, module in model.named_modules()
            if type(module).__name__ in classes
            for inside, layer in module.named_modules()
            if isinstance(layer, layers)
        }
        for kind, classes in _CLASSES.items()
    }
    for kind, names in found.items():
        assert {name.replace(".", "_") for name in names} == KOHYA[kind]


def test_hashes_are_those_of_kohya(torch, scaled_everywhere, tmp_path):
    """Of what its scripts hash: what PyTorch's writer makes of tensors and fields."""
    of_torch = pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    save_lora(scaled_everywhere, path, format="kohya", metadata={"reward": "mine"})
    found = header(path)
    training = {k: v for k, v in found.items() if k.startswith("ss_")}
    content = of_torch.save(of_torch.load_file(path), training)
    start = 8 + int.from_bytes(content[:8], "little")
    assert found["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()
    old = hashlib.sha256(content[0x100000:][:0x10000]).hexdigest()[:8]
    assert found["sshs_legacy_hash"] == old


def test_the_config_is_one_of_peft(scaled_everywhere, tmp_path):
    peft = pytest.importorskip("peft")
    save_lora(
        scaled_everywhere, tmp_path, format="peft", metadata={"base_model": "a/b"}
    )
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    config = peft.LoraConfig.from_pretrained(tmp_path).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    assert written.items() <= config.items()
