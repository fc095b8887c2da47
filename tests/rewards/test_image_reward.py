"""ImageReward on a tiny BLIP, against transformers, and its tokenizer."""

import json
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx.io import ModelFileError
from draftx.io.judges._image_reward import read_bert_tokenizer, read_image_reward
from draftx.io.pipeline._components import match_keys
from draftx.judges import (
    BertConfig,
    BertTokenizer,
    from_blip,
    IMAGE_REWARD,
    ImageRewardConfig,
    ImageRewardModel,
)
from draftx.models import CLIPVisionConfig, ConfigError
from draftx.rewards import ImageReward
from draftx.rewards._preprocess import blip_preprocess, clip_preprocess
from draftx.rewards.preference._image_reward import PromptTokens

from ..goldens import make_clip, make_image_reward
from ..helpers import assert_close, relative_error
from ..io.test_manifests import manifest
from . import tiny_clip


VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
FLOAT32 = np.dtype(np.float32)
PROMPTS = ["a red fox", "The cat, on the car!", "unaffable"]
CONFIG = ImageRewardConfig(
    text=BertConfig(**make_image_reward.TEXT),
    vision=CLIPVisionConfig(
        **make_image_reward.VISION, hidden_act="gelu", layer_norm_eps=1e-6
    ),
    head_widths=make_image_reward.WIDTHS,
)


@pytest.fixture(scope="module")
def golden():
    with np.load(make_image_reward.PATH) as file:
        return dict(file)


@pytest.fixture(scope="module")
def bert():
    return json.loads(make_image_reward.BERT.read_text())


@pytest.fixture(scope="module")
def folder(golden, bert, tmp_path_factory):
    """The published files, with what no score depends on."""
    folder = tmp_path_factory.mktemp("image_reward")
    state = tiny_clip.state_dict(golden) | {
        "blip.vision_proj.weight": np.ones((4, 16), np.float32),
        "blip.text_proj.bias": np.ones(4, np.float32),
    }
    save_file(state, folder / "file.safetensors")
    med = {"model_type": "bert", "encoder_width": 768, "add_cross_attention": True}
    text = med | make_image_reward.TEXT | {"type_vocab_size": 2}
    (folder / "med_config.json").write_text(json.dumps(text))
    (folder / "vocab.txt").write_text("\n".join(bert["pieces"]) + "\n", "utf-8")
    return folder


def _read(folder, dtype=FLOAT32):
    # The text encoder is described by the file beside.
    config = ImageRewardConfig(vision=CONFIG.vision, head_widths=CONFIG.head_widths)
    return read_image_reward(folder / "file.safetensors", dtype, config)


@pytest.fixture(scope="module")
def reward(folder):
    return ImageReward(_read(folder), read_bert_tokenizer(folder))


@pytest.fixture(scope="module")
def rows(golden):
    """The prompts of the golden file; in rows as long as those of `prepare`, so that
    one program serves for all tests."""
    ids = np.pad(golden["in/input_ids"], ((0, 0), (0, 26)))
    return PromptTokens(jnp.asarray(ids), jnp.asarray(golden["in/lengths"]))


@eqx.filter_jit
def _value_and_grad(reward, images, rows):
    def total(images):
        scores = reward(images, rows)
        return jnp.sum(scores), scores

    (_, scores), gradient = jax.value_and_grad(total, has_aux=True)(images)
    return scores, gradient


@eqx.filter_jit
def _score(reward, images, rows):
    return reward(images, rows)


def test_matches_golden(golden, reward, rows):
    assert reward.model.config == CONFIG
    scores, gradient = _value_and_grad(reward, jnp.asarray(golden["in/images"]), rows)
    assert (scores.shape, scores.dtype) == ((3,), jnp.float32)
    np.testing.assert_allclose(scores, golden["out/score"], rtol=VALUE_TOLERANCE)
    assert relative_error(gradient, golden["grad/images"]) < GRADIENT_TOLERANCE


def test_every_published_tensor_has_its_place():
    shapes = manifest("image_reward")
    # Views of one number: as large as the real ones in shape only.
    state = {k: np.broadcast_to(np.float16(0), s) for k, s in shapes.items()}
    converted = {k: x.shape for k, x in from_blip(state).items()}
    model = eqx.filter_eval_shape(ImageRewardModel, IMAGE_REWARD, key=jr.key(0))
    keys = match_keys(model, converted, "ImageReward.pt")
    assert sorted(keys.values()) == sorted(converted)
    assert (len(shapes), len(keys)) == (620, 716)
    # Of the 1.79 GB of the file, all but what no score depends on.
    assert sum(np.prod(s, dtype=int) for s in shapes.values()) == 446_206_689


def test_images_and_prompts_keep_to_themselves(golden, reward):
    images = jnp.asarray(golden["in/images"])
    rows = reward.prepare(PROMPTS)
    assert (rows.input_ids.shape, rows.lengths.tolist()) == ((3, 35), [5, 9, 5])
    others = images[::-1].at[1].set(images[1])
    scores, gradient = _value_and_grad(reward, images, rows)
    other_scores, other_gradient = _value_and_grad(reward, others, rows)
    assert_close(scores[1], other_scores[1])
    assert_close(gradient[1], other_gradient[1])
    assert not jnp.allclose(scores[0], other_scores[0])
    # Another prompt, another score; what is behind its end counts nothing.
    swapped, _ = _value_and_grad(reward, images, reward.prepare(PROMPTS[::-1]))
    assert_close(swapped[1], scores[1])
    assert not jnp.allclose(swapped[0], scores[0])
    noise = jnp.where(rows.input_ids == 0, 7, rows.input_ids)
    padded, _ = _value_and_grad(reward, images, rows._replace(input_ids=noise))
    assert_close(padded, scores)
    # Steps along the gradient raise every score.
    for _ in range(2):
        images = images + 2e-3 * jnp.sign(gradient)
        raised, gradient = _value_and_grad(reward, images, rows)
        assert jnp.all(raised > scores)
        scores = raised


def test_flat_and_bfloat16_images(golden, reward, rows):
    images = jnp.asarray(golden["in/images"])
    levels = jnp.asarray([0.0, 1.0, 0.5])[:, None, None, None]
    flat = jnp.broadcast_to(levels, images.shape)
    scores, gradient = _value_and_grad(reward, flat, rows)
    assert jnp.all(jnp.isfinite(scores))
    assert jnp.all(jnp.isfinite(gradient))
    assert jnp.any(gradient != 0)
    half = images.astype(jnp.bfloat16)
    expected, _ = _value_and_grad(reward, half.astype(jnp.float32), rows)
    assert_close(_score(reward, half, rows), expected)


def test_weights_in_bfloat16(folder, golden, reward, rows):
    model = _read(folder, np.dtype(jnp.bfloat16))
    assert model.text.layers[0].crossattention.key.weight.dtype == jnp.bfloat16
    assert model.head.linears[0].weight.dtype == jnp.float32
    images = jnp.asarray(golden["in/images"])
    actual = _score(ImageReward(model, reward.tokenizer), images, rows)
    assert actual.dtype == jnp.float32
    assert np.abs(actual - golden["out/score"]).max() < 0.05


def test_the_crop_is_where_torchvision_has_it():
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 4, 7, 3)))
    image = image.astype(jnp.float32)
    # Of a rest of three, two before: a half goes to the even number.
    rest = blip_preprocess(image, 4), clip_preprocess(image, 4)
    assert_close(rest[0], clip_preprocess(image[:, :, 2:6], 4))
    assert_close(rest[1], clip_preprocess(image[:, :, 1:5], 4))
    # A rest of one is at the end for both, and squares have none.
    for width in (4, 5):
        narrow = image[:, :, :width]
        assert_close(blip_preprocess(narrow, 4), clip_preprocess(narrow, 4))


def test_ids_are_those_of_transformers(bert, folder):
    tokenizer = read_bert_tokenizer(folder / "vocab.txt")
    assert tokenizer.vocab_size == bert["vocab_size"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids, lengths = tokenizer(bert["prompts"])
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int32)
    for prompt, row, expected in zip(bert["prompts"], ids, bert["ids"], strict=True):
        np.testing.assert_array_equal(row, expected, err_msg=repr(prompt[:60]))
    assert lengths.tolist() == bert["lengths"]
    with pytest.warns(UserWarning, match="52 tokens .* takes 35; this part is lost"):
        tokenizer(["the " * 49 + "fox"])
    same = read_bert_tokenizer(folder)
    assert same == tokenizer
    assert hash(same) == hash(tokenizer)
    assert same != BertTokenizer.from_vocab(folder / "vocab.txt", max_length=9)


def test_inputs_error_texts(golden, reward, folder, rows):
    images = jnp.asarray(golden["in/images"])
    with pytest.raises(ValueError, match="`ImageReward.prepare` gives.* got None"):
        reward(images)
    with pytest.raises(ValueError, match="`ImageReward.prepare` gives.* got a list"):
        reward(images, PROMPTS)
    with pytest.raises(ValueError, match="one row for each of the 2 images; got 3"):
        reward(images[:2], rows)
    with pytest.raises(ValueError, match="`prompts` must be a list .* single"):
        reward.prepare("a fox")
    with pytest.raises(ValueError, match="must be in .* Divide by 255"):
        reward(255 * images, rows)
    long = BertTokenizer.from_vocab(folder / "vocab.txt", max_length=41)
    with pytest.raises(
        ValueError, match="`tokenizer` must have .* at most 40 in a row"
    ):
        ImageReward(reward.model, long)
    with pytest.raises(ValueError, match="`max_length` must be at least 3; got 2"):
        BertTokenizer.from_vocab(folder / "vocab.txt", max_length=2)


def test_files_of_another_family_and_damaged_ones(folder, tmp_path):
    state = load_file(folder / "file.safetensors")
    path = tmp_path / "file.safetensors"
    read = lambda: read_image_reward(path, FLOAT32, CONFIG)
    path.write_bytes((folder / "file.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="damaged or only partly there"):
        read()
    save_file({k.removeprefix("blip."): x for k, x in state.items()}, path)
    with pytest.raises(ModelFileError, match="These are the names of BLIP itself"):
        read()
    save_file({"visual.proj": np.ones(3, np.float32)}, path)
    with pytest.raises(ModelFileError, match="must hold an ImageReward .* 1 tensors"):
        read()
    name = "blip.visual_encoder.blocks.1.attn.qkv.bias"
    save_file({k: x for k, x in state.items() if k != name}, path)
    with pytest.raises(ModelFileError, match="3 missing: vision.layers.1.self_attn"):
        read()
    save_file(state | {"blip.text_decoder.x": np.ones(3, np.float32)}, path)
    with pytest.raises(ModelFileError, match="1 unexpected: blip.text_decoder.x"):
        read()
    save_file(state, path)
    (tmp_path / "med_config.json").write_text('{"hidden_act": "relu"}')
    with pytest.raises(ModelFileError, match="describes no text encoder.*`hidden_act`"):
        read()
    with pytest.raises(ModelFileError, match="Download vocab.txt of"):
        read_bert_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_text("fox\n")
    with pytest.raises(ModelFileError, match="holds no BERT vocabulary: `vocab` must"):
        read_bert_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="`num_attention_heads` must divide"):
        BertConfig(hidden_size=10, num_attention_heads=3)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_golden_is_what_is_installed(transformers, golden, bert):
    live = make_image_reward.reference()
    assert golden.keys() == live.keys()
    assert str(golden["shapes"]) == str(live["shapes"])
    for key in golden.keys() - {"shapes"}:
        np.testing.assert_allclose(golden[key], live[key], rtol=1e-4, atol=1e-6)
    shapes = {k: tuple(shape) for k, shape in make_image_reward.manifest().items()}
    assert shapes == manifest("image_reward")
    assert make_image_reward.bert_ids()["ids"] == bert["ids"]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_torch_save(transformers, bert, folder, tmp_path):
    """Another size, from words to scores, with the numbers that old files store."""
    import torch

    text = make_image_reward.TEXT | dict(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=3
    )
    vision = make_image_reward.VISION | dict(
        hidden_size=20, num_attention_heads=4, image_size=15, patch_size=5
    )
    widths = (9, 7, 6, 5)
    parts = make_image_reward.modules(text, vision, widths)
    make_image_reward.randomize(parts, np.random.default_rng(2))
    positions = torch.arange(40)[None]
    state = make_image_reward.published_state(*parts) | {
        "blip.text_encoder.embeddings.position_ids": positions
    }
    state = {k: x if x.ndim == 0 else x.clone() for k, x in state.items()}
    torch.save(
        {k: x.float() if x.is_floating_point() else x for k, x in state.items()},
        tmp_path / "ImageReward.pt",
    )
    config = ImageRewardConfig(
        text=BertConfig(**text),
        vision=CLIPVisionConfig(**vision, hidden_act="gelu", layer_norm_eps=1e-6),
        head_widths=widths,
    )
    model = read_image_reward(tmp_path / "ImageReward.pt", FLOAT32, config)
    reward = ImageReward(model, read_bert_tokenizer(folder))
    prompts = [bert["prompts"][i] for i in (0, 1, 4, 8)]
    ids = torch.as_tensor([bert["ids"][i] for i in (0, 1, 4, 8)])
    lengths = torch.as_tensor([bert["lengths"][i] for i in (0, 1, 4, 8)])
    images = np.random.default_rng(0).uniform(size=(4, 22, 33, 3)).astype(np.float32)
    pixels = torch.as_tensor(images).double().permute(0, 3, 1, 2).requires_grad_()
    expected = make_image_reward.score(*parts, pixels, ids, lengths)
    (gradient,) = torch.autograd.grad(expected.sum(), pixels)
    actual, ours = _value_and_grad(reward, jnp.asarray(images), reward.prepare(prompts))
    np.testing.assert_allclose(actual, expected.detach().numpy(), rtol=1e-4)
    assert relative_error(ours, gradient.permute(0, 2, 3, 1).numpy()) < 1e-3


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_images_are_processed_as_published(transformers):
    """By Pillow on bytes, as torchvision resizes and crops, up to their rounding."""
    from PIL import Image

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(64, 192, (6, 5, 3), np.uint8))
    for height, width in ((33, 24), (20, 41), (11, 12)):
        image = coarse.resize((width, height))
        short = min(height, width)
        size = (int(15 * width / short), int(15 * height / short))
        small = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (int(round((n - 15) / 2.0)) for n in small.size)
        expected = np.asarray(small.crop((left, top, left + 15, top + 15)), np.float32)
        expected = (expected / 255 - make_clip.MEAN) / make_clip.STD
        images = jnp.asarray(np.asarray(image, np.float32) / 255)[None]
        actual = blip_preprocess(images, 15)[0]
        assert np.abs(actual - expected).max() < 1.1 / 255 / 0.26
