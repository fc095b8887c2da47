"""What every reward must do, whatever it looks at."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.rewards import names, published

from ..helpers import assert_close, relative_error
from . import thin
from .thin import case, NAMES


BATCH = len(thin.PROMPTS)
_EACH = pytest.mark.parametrize("name", NAMES)
# Where the slope may be zero: a distance at its least, and what JPEG keeps as it is.
_MAY_REST = ("jpeg", "jpeg hard_cubic", "rotation", "rotation correlation")
_MAY_REST += ("dissimilarity",)


@eqx.filter_jit
def _value_and_grad(reward, images, features):
    scores, vjp = jax.vjp(lambda x: reward(x, features), images)
    return scores, vjp(jnp.ones_like(scores))[0]


def value_and_grad(name, images):
    """Of the thin reward: one program each, for all tests."""
    reward, features = case(name).reward, case(name).features
    return _value_and_grad(reward, images, features)


@ft.cache
def noise(name, seed=0):
    """Images at which no reward is flat, and away from 0 and 1."""
    shape = (BATCH, case(name).size, case(name).size, 3)
    values = np.random.default_rng(seed).uniform(0.2, 0.8, shape)
    return jnp.asarray(values, jnp.float32)


@ft.cache
def at_noise(name):
    return value_and_grad(name, noise(name))


@_EACH
def test_one_float32_score_an_image(name):
    scores, gradient = at_noise(name)
    assert (scores.shape, scores.dtype) == ((BATCH,), jnp.float32)
    assert jnp.all(jnp.isfinite(scores))
    per_image = jnp.max(jnp.abs(gradient), axis=(1, 2, 3))
    assert jnp.all(per_image > 0)
    assert len({float(s) for s in scores}) == (2 if name in thin.TOGETHER else BATCH)


@_EACH
def test_images_do_not_talk_to_each_other(name):
    if name in thin.TOGETHER:
        pytest.skip("compares the images of a batch")
    scores, gradient = at_noise(name)
    others = noise(name, seed=1).at[1].set(noise(name)[1])
    other_scores, other_gradient = value_and_grad(name, others)
    assert_close(other_scores[1], scores[1])
    scale = float(jnp.max(jnp.abs(gradient[1])))
    assert_close(other_gradient[1] / scale, gradient[1] / scale)
    assert not jnp.allclose(other_scores[0], scores[0], rtol=1e-5)


@_EACH
def test_steps_along_the_gradient_raise_every_score(name):
    images = noise(name)
    first, gradient = at_noise(name)
    for _ in range(3):
        size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
        images = images + 1e-3 * gradient / size
        scores, gradient = value_and_grad(name, images)
        assert jnp.all(scores > first)
        first = scores


@_EACH
def test_gradients_are_finite_at_degenerate_images(name):
    """Black, white, gray, and saturated checkers; and a batch of one image, which is
    the reference of the rewards that have one."""
    size = case(name).size
    checkers = np.indices((size, size)).sum(0)[..., None] % 2
    flat = [np.full((size, size, 1), level) for level in (0.0, 1.0, 0.5)]
    images = np.broadcast_to(np.stack([*flat, checkers]), (BATCH, size, size, 3))
    scores, gradient = value_and_grad(name, jnp.asarray(images, jnp.float32))
    assert jnp.all(jnp.isfinite(scores))
    assert jnp.all(jnp.isfinite(gradient))
    assert name in _MAY_REST or jnp.any(gradient != 0)
    scores, gradient = value_and_grad(name, jnp.repeat(thin.image(size), BATCH, 0))
    assert jnp.all(jnp.isfinite(scores))
    assert jnp.all(jnp.isfinite(gradient))


def test_bfloat16_images():
    """Of the scores that the same numbers have in float32."""

    @eqx.filter_jit
    def all_scores(rewards, images, features):
        return {n: r(images[r_size(n)], features[n]) for n, r in rewards.items()}

    r_size = lambda name: case(name).size
    half = {r_size(n): noise(n).astype(jnp.bfloat16) for n in NAMES}
    rewards = {name: case(name).reward for name in NAMES}
    scores = all_scores(rewards, half, {name: case(name).features for name in NAMES})
    for name in NAMES:
        expected, _ = value_and_grad(name, half[r_size(name)].astype(jnp.float32))
        assert scores[name].dtype == jnp.float32
        assert relative_error(scores[name], expected) < 1e-4


@_EACH
def test_wrong_images_error_texts(name):
    reward, features = case(name).reward, case(name).features
    images = noise(name)
    with pytest.raises(ValueError, match=r"`images` must be in \[0, 1\]; got values"):
        reward(255 * images, features)
    with pytest.raises(ValueError, match=r"`images` .* Map \[-1, 1\] by"):
        reward(2 * images - 1, features)


@_EACH
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: jnp.moveaxis(x, -1, 1), r"channels last.*jnp.moveaxis"),
        (lambda x: x[0], r"batch, height, width .* `image\[None\]`"),
        (lambda x: jnp.pad(x, [(0, 0)] * 3 + [(0, 1)]), "channels last.* alpha"),
        (lambda x: (255 * x).astype(jnp.uint8), "must be float.* / 255"),
    ],
)
def test_wrong_layouts_error_texts(name, change, message, without_types):
    reward, features = case(name).reward, case(name).features
    with pytest.raises(ValueError, match=message):
        reward(change(noise(name)), features)


@pytest.mark.parametrize("name", thin.PROMPTED)
def test_missing_features_error_text(name, without_types):
    reward, images = case(name).reward, noise(name)
    text = r"`features` must be what `\w+.prepare` give"
    with pytest.raises(ValueError, match=text):
        reward(images)
    with pytest.raises(ValueError, match=text):
        reward(images, thin.PROMPTS)
    with pytest.raises(ValueError, match="`features` must have one row for each"):
        reward(images, jax.tree.map(lambda x: x[:2], case(name).features))


@_EACH
def test_it_has_a_name_in_profiles(name):
    reward, features = case(name).reward, case(name).features
    if name == "sum":
        pytest.skip("its terms have theirs")
    lowered = jax.jit(lambda images: reward(images, features)).lower(noise(name))
    text = lowered.as_text(debug_info=True)
    assert f"draftx.rewards.{type(reward).__name__}" in text


def test_every_published_reward_is_tried():
    tried = {type(case(name).reward).__name__ for name in NAMES}
    assert {published(name).reward.__name__ for name in names()} <= tried
