"""CLIP score, PickScore, HPSv2 and the aesthetic score on tiny CLIPs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.rewards import AestheticHead, AestheticScore, CLIPScore, PickScore
from draftx.rewards.preference._similarity import unit

from ..helpers import assert_close, relative_error
from ..io.tiny import write_tokenizer
from . import tiny_clip


VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
PROMPTS = ["a bad cab", "lin", "aff fee"]


@pytest.fixture(scope="module")
def rewards(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("clip")
        return {n: tiny_clip.load(n, folder / n, patch) for n in tiny_clip.NAMES}


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


@eqx.filter_jit
def _text_rows(model, input_ids):
    return unit(model.text_features(input_ids))


def _images(name):
    return jnp.asarray(tiny_clip.golden(name)["in/images"])


@pytest.mark.parametrize("name", tiny_clip.NAMES)
def test_matches_golden(name, rewards):
    golden, reward = tiny_clip.golden(name), rewards[name]
    rows = None
    if name != "aesthetic":
        rows = _text_rows(reward.model, jnp.asarray(golden["in/input_ids"]))
    scores, gradient = _value_and_grad(reward, jnp.asarray(golden["in/images"]), rows)
    assert (scores.shape, scores.dtype) == ((3,), jnp.float32)
    np.testing.assert_allclose(scores, golden["out/score"], rtol=VALUE_TOLERANCE)
    assert relative_error(gradient, golden["grad/images"]) < GRADIENT_TOLERANCE
    assert np.argsort(scores).tolist() == np.argsort(golden["out/score"]).tolist()


def test_prompts_are_prepared_once_and_row_by_row(rewards):
    reward = rewards["clip"]
    rows = reward.prepare(PROMPTS)
    assert (rows.shape, rows.dtype) == ((3, 10), jnp.float32)
    assert_close(jnp.linalg.norm(rows, axis=1), jnp.ones(3))
    # Row by row, and whatever the case and the blanks.
    assert_close(reward.prepare([PROMPTS[2], "A  BAD cab", "lin"])[1], rows[0])
    assert rewards["aesthetic"].prepare(PROMPTS) is None


def test_scales(rewards, getkey):
    model, tokenizer = rewards["clip"].model, rewards["clip"].tokenizer
    images, rows = _images("clip"), rewards["clip"].prepare(PROMPTS)
    cosine, _ = _value_and_grad(rewards["clip"], images, rows)

    @eqx.filter_jit
    def scores(rewards):
        return [reward(images, rows) for reward in rewards]

    percent, learned, plain = scores(
        [
            CLIPScore(model, tokenizer, scale=100.0, remat="none"),
            PickScore(model, tokenizer),
            PickScore(model, tokenizer, scale=1.0),
        ]
    )
    assert_close(percent, 100.0 * cosine)
    assert_close(learned, jnp.exp(2.5) * cosine)
    assert_close(plain, cosine)


def test_weights_in_bfloat16(tmp_path, monkeypatch, rewards):
    reward = tiny_clip.load("clip", tmp_path, monkeypatch, dtype=jnp.bfloat16)
    assert reward.model.visual_projection.weight.dtype == jnp.bfloat16
    assert reward.model.logit_scale.dtype == jnp.float32
    images, rows = _images("clip"), rewards["clip"].prepare(PROMPTS)
    expected, _ = _value_and_grad(rewards["clip"], images, rows)
    actual = _score(reward, images, reward.prepare(PROMPTS))
    assert actual.dtype == jnp.float32
    assert relative_error(actual, expected) < 0.1


def test_parts_that_do_not_fit(rewards, tmp_path):
    other = write_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="`tokenizer` must have the model's 31 ids"):
        CLIPScore(rewards["clip"].model, other)
    head = eqx.filter_eval_shape(AestheticHead, key=jr.key(0))
    with pytest.raises(ValueError, match="`head` must take .* size 10; got .* 768"):
        AestheticScore(rewards["aesthetic"].encoder, head)
