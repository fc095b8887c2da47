"""DINOv2 against transformers: a golden, and live."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.io import ModelFileError, read_dinov2
from draftx.judges import dinov2_config, DINOV2_S_14, Dinov2Model
from draftx.models import ConfigError
from draftx.rewards import load, ReferenceSimilarity

from ..goldens import make_dinov2
from ..helpers import relative_error


@pytest.fixture(scope="module")
def golden():
    with np.load(make_dinov2.PATH) as file:
        return dict(file)


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    return make_dinov2.write(golden, tmp_path_factory.mktemp("dinov2"))


@pytest.mark.parametrize("case", make_dinov2.SIZES)
def test_tokens_and_their_gradient(folder, golden, case):
    """Of the size that it was trained on, and of others, with places in between."""
    model = read_dinov2(folder, np.dtype(np.float32))
    pixels = jnp.asarray(golden[f"in/{case}"])
    weight = jnp.asarray(golden[f"weight/{case}"])

    @jax.jit
    def loss(pixels):
        tokens = model.hidden_states(pixels)
        return jnp.sum(tokens * weight), tokens

    (_, tokens), gradient = jax.value_and_grad(loss, has_aux=True)(pixels)
    assert relative_error(tokens, golden[f"out/{case}"]) < 2e-5
    assert relative_error(gradient, golden[f"grad/{case}"]) < 5e-5
    pooled = jax.jit(lambda x: model(x))(pixels)
    assert relative_error(pooled, golden[f"out/{case}"][:, 0]) < 2e-5


def test_names_as_they_were_published(folder, golden, tmp_path):
    """Those of transformers 4, which the file on the hub has."""
    old = make_dinov2.published_names(golden)
    assert any(".attention.attention.query." in key for key in old)
    make_dinov2.write(old, tmp_path)
    model = read_dinov2(tmp_path, np.dtype(np.float32))
    same = read_dinov2(folder, np.dtype(np.float32))
    for ours, theirs in zip(jax.tree.leaves(model), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_published_size():
    model = jax.eval_shape(lambda: Dinov2Model(DINOV2_S_14, key=jax.random.key(0)))
    count = sum(x.size for x in jax.tree.leaves(model))
    # 22,056,576 with the token that hides patches and the factors of residuals, which
    # are part of the weights here.
    assert count == 22_056_576 - 384 - 12 * 2 * 384


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_swiglu_ffn": True}, "`use_swiglu_ffn` of a DINOv2"),
        ({"num_register_tokens": 4}, "`num_register_tokens` of a DINOv2"),
        ({"hidden_act": "relu"}, "`hidden_act` of a DINOv2"),
        # What `null` is to the Python that reads it.
        ({"qkv_bias": None}, "`qkv_bias` of a DINOv2 must be True; got None"),
        ({"num_attention_heads": 5}, "must divide `hidden_size`; got 5 and 12"),
        ({"num_attention_heads": 0}, "must divide `hidden_size`; got 0 and 12"),
        ({"hidden_size": "wide"}, "`hidden_size` of a DINOv2 must be a whole number"),
        ({"mlp_ratio": "4"}, "`mlp_ratio` of a DINOv2 must be a positive number"),
    ],
)
def test_other_networks_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dinov2_config(make_dinov2.CONFIG | change)


def test_null_is_what_transformers_takes_for_what_is_absent():
    names = [*make_dinov2.CONFIG, "hidden_act", "num_channels", "use_swiglu_ffn"]
    nothing = dict.fromkeys([*names, "num_register_tokens"])
    assert dinov2_config(nothing) == dinov2_config({})
    # Those of `facebook/dinov2-base` but for the size of its images.
    assert dinov2_config({}).hidden_size == 768
    assert dinov2_config({"image_size": [28, 28]}).image_size == 28


def test_a_folder_of_something_else(folder, golden, tmp_path):
    make_dinov2.write(golden, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ModelFileError, match="must describe a Dinov2Model"):
        read_dinov2(tmp_path, np.dtype(np.float32))
    make_dinov2.write({k: v for k, v in golden.items() if "cls" not in k}, tmp_path)
    with pytest.raises(ModelFileError, match="does not fit"):
        read_dinov2(tmp_path, np.dtype(np.float32))
    model = read_dinov2(folder, np.dtype(np.float32))
    with pytest.raises(ValueError, match="patches of 4 divide; got 18x16"):
        model(jnp.zeros((1, 18, 16, 3)))


def test_as_a_reward(folder):
    """Each image is compared with its own row's, place by place or whole."""
    rng = np.random.default_rng(0)
    truths = rng.uniform(size=(2, 64, 48, 3)).astype(np.float32)
    rows = {"prompt": ["", ""], "truth": truths}
    for name in ("dinov2-small", "dinov2-small-pooled"):
        reward = load(name, folder, options={"column": "truth"})
        assert isinstance(reward, ReferenceSimilarity)
        score, known = eqx.filter_jit(reward), reward.prepare(rows)
        np.testing.assert_allclose(score(jnp.asarray(truths), known), 0, atol=1e-5)
        assert np.all(score(jnp.asarray(truths[::-1]), known) < -1e-3)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_golden_is_what_is_installed(golden):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    live = make_dinov2.reference()
    assert golden.keys() == live.keys()
    for key in golden:
        np.testing.assert_allclose(golden[key], live[key], rtol=1e-4, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_transformers_of_the_published_size(tmp_path):
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    network = make_dinov2.model(make_dinov2.PUBLISHED)
    network.save_pretrained(tmp_path)
    model = read_dinov2(tmp_path, np.dtype(np.float32))
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    pixels = torch.as_tensor(images).permute(0, 3, 1, 2).requires_grad_()
    tokens = network(pixel_values=pixels).last_hidden_state
    weight = np.random.default_rng(1).normal(size=tokens.shape).astype(np.float32)
    (tokens * torch.as_tensor(weight)).sum().backward()

    @jax.jit
    def loss(images):
        ours = model.hidden_states(images)
        return jnp.sum(ours * weight), ours

    (_, ours), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(images))
    assert relative_error(ours, tokens.detach().numpy()) < 1e-4
    expected = pixels.grad.permute(0, 2, 3, 1).numpy()
    assert relative_error(gradient, expected) < 1e-3
