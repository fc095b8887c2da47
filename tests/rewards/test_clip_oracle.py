"""Rewards of CLIP's family against transformers and PyTorch, live."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import draftx

from ..goldens import make_clip
from ..helpers import relative_error
from . import tiny_clip


pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
PROMPTS = ["a bad cab", "LIN  lin", "", "abcdefg hijklmn abc"]


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@eqx.filter_jit
def _value_and_grad(reward, images, rows):
    total = lambda x: (jnp.sum(reward(x, rows)), reward(x, rows))
    (_, scores), gradient = jax.value_and_grad(total, has_aux=True)(images)
    return scores, gradient


@pytest.mark.parametrize("name", tiny_clip.NAMES)
def test_goldens_are_what_is_installed(torch, name):
    golden, live = tiny_clip.golden(name), make_clip.reference(name)
    assert golden.keys() == live.keys()
    for key in golden:
        if key in ("config", "shapes"):
            assert str(golden[key]) == str(live[key])
        else:
            np.testing.assert_allclose(golden[key], live[key], rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def saved(torch, tmp_path_factory):
    """A CLIP unlike the golden ones, and its tokenizer, saved by transformers."""
    import transformers

    folder = tmp_path_factory.mktemp("saved")
    text = make_clip._TEXT | dict(
        hidden_size=24, hidden_act="gelu", num_hidden_layers=3, eos_token_id=30
    )
    vision = dict(
        hidden_act="gelu",
        hidden_size=20,
        image_size=15,
        intermediate_size=28,
        layer_norm_eps=1e-3,
        num_attention_heads=4,
        num_hidden_layers=3,
        patch_size=5,
    )
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=14
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config)
    make_clip.randomize(model, np.random.default_rng(0)).float()
    model.save_pretrained(folder)
    tiny_clip.write_tokenizer(folder)
    return model, folder


@pytest.mark.parametrize("name", ["clip", "pickscore"])
def test_a_folder_of_transformers(torch, saved, name):
    import transformers

    model, folder = saved
    reward = draftx.rewards.load(name, folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder))
    ids = tokenizer(
        PROMPTS,
        padding="max_length",
        max_length=9,
        truncation=True,
        return_tensors="pt",
    )
    images = np.random.default_rng(0).uniform(size=(4, 33, 24, 3)).astype(np.float32)
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    outputs = model.double()(
        input_ids=ids.input_ids, pixel_values=make_clip._crop(pixels, 15)
    )
    expected = torch.diagonal(outputs.logits_per_image)
    if name == "clip":
        expected = expected / model.logit_scale.exp()
    (gradient,) = torch.autograd.grad(expected.sum(), pixels)
    actual, ours = _value_and_grad(reward, jnp.asarray(images), reward.prepare(PROMPTS))
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-4)
    assert relative_error(ours, gradient.permute(0, 2, 3, 1).numpy()) < 1e-3


def test_tokens_of_the_image_tower(torch, saved):
    """All of them normed here; there the class token's alone is."""
    model, folder = saved
    tower = draftx.rewards.load("clip", folder).model.vision_model
    images = np.random.default_rng(0).normal(size=(2, 15, 15, 3)).astype(np.float32)
    theirs = model.double().vision_model
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    outputs = theirs(pixel_values=pixels, output_hidden_states=True)
    # One of each layer, after what goes into the first.
    assert len(outputs.hidden_states) == 1 + len(tower.layers)
    assert torch.equal(outputs.hidden_states[-1], outputs.last_hidden_state)
    expected = theirs.post_layernorm(outputs.last_hidden_state)
    assert torch.equal(expected[:, 0], outputs.pooler_output)
    weight = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    (gradient,) = torch.autograd.grad(
        (expected * torch.as_tensor(weight)).sum(), pixels
    )

    @eqx.filter_jit
    def loss(images):
        tokens = tower.hidden_states(images)
        return jnp.sum(tokens * weight), tokens

    (_, tokens), ours = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(images))
    assert relative_error(tokens, expected.detach().numpy()) < 1e-4
    assert relative_error(ours, gradient.permute(0, 2, 3, 1).numpy()) < 1e-3


def test_images_are_processed_as_transformers_does(torch):
    """Up to the rounding of its two passes over bytes.

    Colors are away from 0 and 255, where bytes also cut what the filter overshoots.
    """
    import transformers
    from PIL import Image

    from draftx.rewards._preprocess import clip_preprocess

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(64, 192, (6, 5, 3), np.uint8))
    try:
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": 15}, crop_size={"height": 15, "width": 15}
        )
    except ImportError:
        pytest.skip("this version of transformers needs torchvision for it")
    for height, width in ((33, 24), (20, 41), (11, 12)):
        image = coarse.resize((width, height))
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        images = jnp.asarray(np.asarray(image, np.float32) / 255)[None]
        actual = clip_preprocess(images, 15)[0]
        assert np.abs(actual - expected.transpose(1, 2, 0)).max() < 1.1 / 255 / 0.26


@pytest.mark.parametrize("name", ["hpsv2", "aesthetic"])
def test_files_of_torch_save(torch, name, tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    expected = tiny_clip.load(name, tmp_path, monkeypatch)
    arguments = tiny_clip.write(name, tmp_path)
    state = load_file(arguments["source"])
    state = {k: torch.as_tensor(x) for k, x in state.items()}
    # HPSv2's files are as a trainer wrote them.
    whole = {"epoch": 3, "name": "x", "state_dict": state} if name == "hpsv2" else state
    file = tmp_path / "file.pt"
    torch.save(whole, file)
    actual = draftx.rewards.load(name, **(arguments | {"source": file}))
    assert eqx.tree_equal(actual, expected)
