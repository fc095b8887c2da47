"""The detection reward on a tiny OWL-ViT, against transformers."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from draftx.io import ModelFileError
from draftx.io.judges._clip import read_tokenizer
from draftx.io.judges._owlvit import read_owlvit
from draftx.io.pipeline._components import match_keys
from draftx.judges import OWLVIT_B_32, owlvit_config, OwlViTForObjectDetection
from draftx.judges.owlvit._heads import box_bias
from draftx.models import CLIPConfig, ConfigError
from draftx.rewards import DetectionReward
from draftx.rewards._preprocess import resize, stretch_preprocess
from draftx.rewards.perception._detection import PromptQueries
from draftx.rewards.preference._similarity import unit

from ..goldens import make_clip, make_owlvit
from ..helpers import assert_close, relative_error
from ..io.test_manifests import manifest
from ..io.tiny import write_tokenizer
from . import tiny_clip


VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
QUERIES = ["a bad", "lin"]


@pytest.fixture(scope="module")
def golden():
    with np.load(make_owlvit.PATH) as file:
        return dict(file)


def _write(folder, arrays):
    text = {"architectures": ["OwlViTForObjectDetection"], "model_type": "owlvit"}
    (folder / "config.json").write_text(json.dumps(text | make_owlvit.CONFIG))
    save_file(tiny_clip.state_dict(arrays), folder / "model.safetensors")
    tiny_clip.write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    return _write(tmp_path_factory.mktemp("owlvit"), golden)


@pytest.fixture(scope="module")
def parts(folder):
    """The detector and its tokenizer, as a reward takes them."""
    model = read_owlvit(folder, np.dtype(np.float32))
    # Its rows are longer than the detector's.
    tokenizer = read_tokenizer(folder, model.config.text.vocab_size)
    assert tokenizer.max_length == 9
    assert DetectionReward(model, tokenizer).tokenizer.max_length == 7
    return model, tokenizer


@pytest.fixture(scope="module")
def rows(golden, parts):
    """What `prepare` would give for the token ids of the golden file."""
    embed = eqx.filter_jit(lambda model, ids: unit(model.text_features(ids)))
    embeddings = embed(parts[0], jnp.asarray(golden["in/input_ids"]))
    return PromptQueries(embeddings.reshape(3, 2, -1), jnp.ones((3, 2), bool))


@eqx.filter_jit
def value_and_grad(reward, images, rows):
    def total(images):
        scores = reward(images, rows)
        return jnp.sum(scores), scores

    (_, scores), gradient = jax.value_and_grad(total, has_aux=True)(images)
    return scores, gradient


@eqx.filter_jit
def score(reward, images, rows=None):
    return reward(images, rows)


@pytest.mark.parametrize("name", make_owlvit.CASES)
def test_matches_golden(name, golden, parts, rows):
    reward = DetectionReward(*parts, **make_owlvit.CASES[name])
    scores, gradient = value_and_grad(reward, jnp.asarray(golden["in/images"]), rows)
    assert (scores.shape, scores.dtype) == ((3,), jnp.float32)
    np.testing.assert_allclose(scores, golden[f"out/{name}"], rtol=VALUE_TOLERANCE)
    assert relative_error(gradient, golden[f"grad/{name}"]) < GRADIENT_TOLERANCE


def test_detections_match_golden(golden, parts, rows):
    reward = DetectionReward(*parts)
    found = eqx.filter_jit(DetectionReward.detect)(
        reward, jnp.asarray(golden["in/images"]), rows
    )
    np.testing.assert_allclose(found.logits, golden["out/logits"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.boxes, golden["out/boxes"], rtol=VALUE_TOLERANCE)


def test_every_published_tensor_has_its_place():
    shapes = manifest("owlvit_b32")
    model = eqx.filter_eval_shape(OwlViTForObjectDetection, OWLVIT_B_32, key=jr.key(0))
    keys = match_keys(model, shapes, "owlvit")
    assert sorted(keys.values()) == sorted(shapes)
    assert len(keys) == 412


def test_config():
    assert owlvit_config({"text_config": {}, "vision_config": {}}) == OWLVIT_B_32
    # The end token of the file's config is not how the end is found.
    text = {"eos_token_id": 49407, "num_hidden_layers": 3}
    config = owlvit_config({"text_config": text, "vision_config": {"patch_size": 16}})
    assert config.eos_token_id == 2
    assert (config.text.num_hidden_layers, config.vision.patch_size) == (3, 16)
    assert isinstance(config, CLIPConfig)
    with pytest.raises(ConfigError, match="`projection_dim` of an OWL-ViT must be"):
        owlvit_config({"text_config": {}, "vision_config": {}, "projection_dim": 64})


def test_boxes_of_a_silent_head_tile_the_image():
    boxes = jax.nn.sigmoid(box_bias(3)).reshape(3, 3, 4)
    np.testing.assert_allclose(boxes[0, 1, :2], [2 / 3, 1 / 3], atol=2e-4)
    np.testing.assert_allclose(boxes[2, 0, :2], [1 / 3, 1], atol=2e-4)
    np.testing.assert_allclose(boxes[..., 2:], 1 / 3, atol=2e-4)


@pytest.fixture(scope="module")
def by_prompt(parts):
    queries = {"red": ["a bad", "lin"], "blue": ["lin"], "green": ["aff", "lin"]}
    return DetectionReward(*parts, queries, kind="both")


def test_queries_of_every_prompt(parts, golden, by_prompt):
    images = jnp.asarray(golden["in/images"])
    rows = by_prompt.prepare(["red", "blue", "green"])
    assert rows.is_query.tolist() == [[True, True], [True, False], [True, True]]
    scores = score(by_prompt, images, rows)
    # As with one list for all images, image by image; left-over places count nothing.
    for i, queries in enumerate((["a bad", "lin"], ["lin"])):
        one = DetectionReward(*parts, queries, kind="both")
        assert one.prepare(["anything"]) is None
        assert_close(score(one, images)[i], scores[i])
    # A prompt is its own query.
    own = DetectionReward(*parts, kind="both")
    rows = own.prepare(["aff", "lin", "lin"])
    assert rows.embeddings.shape == (3, 1, 12)
    assert_close(rows.embeddings[1], rows.embeddings[2])
    assert_close(score(own, images, rows)[1], scores[1])


def test_parts_of_a_score_add_up(parts, golden):
    images = jnp.asarray(golden["in/images"])

    @eqx.filter_jit
    def scores(rewards):
        return [reward(images) for reward in rewards]

    score, area, both, best = scores(
        [
            DetectionReward(*parts, QUERIES, **options)
            for options in (
                dict(),
                dict(kind="areas"),
                dict(kind="both", area_weight=2, exclude=True),
                dict(labels="best"),
            )
        ]
    )
    assert_close(both, -(score + 2 * area))
    # Boxes are smaller than the image, and the best label is one of two.
    assert jnp.all((area > 0) & (area < score))
    assert jnp.all((score / 2 < best) & (best < score))


def test_images_do_not_talk_to_each_other(golden, by_prompt):
    images = jnp.asarray(golden["in/images"])
    rows = by_prompt.prepare(["red", "blue", "green"])
    others = images[::-1].at[1].set(images[1])
    scores, gradient = value_and_grad(by_prompt, images, rows)
    other_scores, other_gradient = value_and_grad(by_prompt, others, rows)
    assert_close(scores[1], other_scores[1])
    assert_close(gradient[1], other_gradient[1])
    assert not jnp.allclose(scores[0], other_scores[0])
    # Steps along the gradient raise every score.
    for _ in range(2):
        images = images + 2e-3 * jnp.sign(gradient)
        raised, gradient = value_and_grad(by_prompt, images, rows)
        assert jnp.all(raised > scores)
        scores = raised


def test_flat_and_bfloat16_images(golden, by_prompt):
    rows = by_prompt.prepare(["red", "blue", "green"])
    images = jnp.asarray(golden["in/images"])
    levels = jnp.asarray([0.0, 1.0, 0.5])[:, None, None, None]
    flat = jnp.broadcast_to(levels, images.shape)
    scores, gradient = value_and_grad(by_prompt, flat, rows)
    assert jnp.all(jnp.isfinite(scores))
    assert jnp.all(jnp.isfinite(gradient))
    assert jnp.any(gradient != 0)
    half = images.astype(jnp.bfloat16)
    expected, _ = value_and_grad(by_prompt, half.astype(jnp.float32), rows)
    assert_close(score(by_prompt, half, rows), expected)


def test_weights_in_bfloat16(folder, golden, by_prompt):
    model = read_owlvit(folder, np.dtype(jnp.bfloat16))
    assert model.box_head.dense2.weight.dtype == jnp.bfloat16
    queries = dict(by_prompt.prompt_queries)
    reward = DetectionReward(model, by_prompt.tokenizer, queries, kind="both")
    images, prompts = jnp.asarray(golden["in/images"]), list(queries)
    actual = score(reward, images, reward.prepare(prompts))
    expected, _ = value_and_grad(by_prompt, images, by_prompt.prepare(prompts))
    assert actual.dtype == jnp.float32
    assert relative_error(actual, expected) < 0.05


def test_images_are_stretched():
    """By Pillow, on floats: the proportions are not kept."""
    with np.load(make_clip.FOLDER / "preprocess.npz") as file:
        image = jnp.asarray(file["in/image"])[None, :, :16]
        expected = file["out/7x5"]
    square = jnp.concatenate([image, image[:, :, ::-1]], axis=2)
    out = stretch_preprocess(square, 7)
    assert out.shape == (1, 7, 7, 3)
    np.testing.assert_allclose(resize(image, 7, 5)[0], expected, atol=1e-5)
    std, mean = jnp.asarray(make_clip.STD), jnp.asarray(make_clip.MEAN)
    plain = out * std[None, None, None] + mean[None, None, None]
    assert_close(plain, resize(square, 7, 7))


def test_options_and_queries_error_texts(parts):
    make = lambda *args, **options: DetectionReward(*parts, *args, **options)
    for name in ("kind", "labels", "areas"):
        with pytest.raises(ValueError, match=f"`{name}` must be one of .* got 'boxes'"):
            make(**{name: "boxes"})
    with pytest.raises(ValueError, match="`threshold` must be at least 0 and less"):
        make(threshold=1.0)
    with pytest.raises(ValueError, match="`threshold` must be positive with `areas="):
        make(kind="areas", areas="plain")
    with pytest.raises(ValueError, match="`queries` must hold at least one"):
        make([])
    with pytest.raises(ValueError, match="`queries` must be a list .* single"):
        make("strawberries")
    with pytest.raises(ValueError, match="`queries` must say what to look for"):
        make(["lin", " "])
    with pytest.raises(ValueError, match="`queries` must say what to look for"):
        make({"red": [""]})
    with pytest.raises(ValueError, match="`queries` must have an entry .* 'blue'"):
        make({"red": ["lin"]}).prepare(["red", "blue"])


def test_without_its_prompts_it_says_so(parts, golden):
    reward, images = DetectionReward(*parts), jnp.asarray(golden["in/images"])
    with pytest.raises(ValueError, match="`DetectionReward.prepare` gives.* got None"):
        reward(images)
    with pytest.raises(ValueError, match="one row for each of the 3 images; got 2"):
        reward(images, reward.prepare(QUERIES))
    with pytest.raises(ValueError, match="must be in .* Divide by 255"):
        DetectionReward(*parts, QUERIES)(255 * images)


def test_a_tokenizer_that_does_not_fit(parts, tmp_path):
    with pytest.raises(ValueError, match="`tokenizer` must have the model's 31 ids"):
        DetectionReward(parts[0], write_tokenizer(tmp_path))


def test_files_of_another_family_and_damaged_ones(folder, golden, tmp_path):
    dtype = np.dtype(np.float32)
    _write(tmp_path, golden)
    read_owlvit(tmp_path, dtype)
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, text = path.read_bytes(), json.loads(config.read_text())
    path.write_bytes(whole[:-100])
    with pytest.raises(ModelFileError, match="damaged or only partly there"):
        read_owlvit(tmp_path, dtype)
    state = load_file(folder / "model.safetensors")
    save_file({k: x for k, x in state.items() if k != "layer_norm.bias"}, path)
    with pytest.raises(ModelFileError, match="1 missing: layer_norm.bias"):
        read_owlvit(tmp_path, dtype)
    # A CLIP is its towers alone.
    towers = {k.removeprefix("owlvit."): x for k, x in state.items() if "owlvit" in k}
    save_file(towers, path)
    with pytest.raises(ModelFileError, match="does not fit the OwlViTForObjectDetec"):
        read_owlvit(tmp_path, dtype)
    for other in ({"architectures": ["Owlv2ForObjectDetection"]}, {"model_type": "x"}):
        config.write_text(json.dumps(text | other))
        with pytest.raises(ModelFileError, match="must describe an OwlViT.* OWLv2"):
            read_owlvit(tmp_path, dtype)
    config.write_text(json.dumps({"model_type": "owlvit"}))
    with pytest.raises(ModelFileError, match="`text_config` must be there"):
        read_owlvit(tmp_path, dtype)
