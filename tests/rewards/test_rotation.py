import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.rewards import RotationAntiCorrelation

from ..helpers import assert_close


_FORMS = ("distance", "correlation")


@eqx.filter_jit
def _score(reward, images):
    return reward(images)


@eqx.filter_jit
def _score_all(rewards, images):
    return [reward(images) for reward in rewards]


@eqx.filter_jit
def _grad(reward, images):
    return jax.grad(lambda x: reward(x).sum())(images)


def _half_white(size=8):
    """White above, black below: its own negative, upside down."""
    rows = jnp.arange(size) < size // 2
    image = jnp.broadcast_to(rows[:, None, None], (size, size, 3))
    return image[None].astype(jnp.float32)


def _numpy_score(image, angle, form):
    rotated = np.rot90(image, angle // 90)
    if form == "distance":
        return np.mean((image - rotated) ** 2)
    centered = [x - x.mean((0, 1)) for x in (image, rotated)]
    return -np.corrcoef(*(x.ravel() for x in centered))[0, 1]


@pytest.mark.parametrize("form", _FORMS)
def test_matches_numpy(form, getkey):
    images = jr.uniform(getkey(), (2, 7, 7, 3))
    subsets = [(90,), (180,), (270, 90), (90, 180, 270)]
    rewards = [RotationAntiCorrelation(angles=angles, form=form) for angles in subsets]
    for angles, actual in zip(subsets, _score_all(rewards, images), strict=True):
        expected = [
            np.mean([_numpy_score(image, angle, form) for angle in angles])
            for image in np.asarray(images, np.float64)
        ]
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
        assert actual.dtype == jnp.float32


@pytest.mark.parametrize("form", _FORMS)
def test_order(form, getkey):
    noise = jr.uniform(getkey(), (1, 8, 8, 3))
    turns = [jnp.rot90(noise, k, axes=(1, 2)) for k in range(4)]
    symmetric = sum(turns[1:], turns[0]) / 4
    images = jnp.concatenate([symmetric, noise, _half_white()])
    scores = _score(RotationAntiCorrelation(form=form, angles=(180,)), images)
    assert scores[0] < scores[1] < scores[2]
    # The two ends of the range.
    np.testing.assert_allclose(scores[2], 1, rtol=1e-3)
    lowest = 0 if form == "distance" else -1
    np.testing.assert_allclose(scores[0], lowest, atol=1e-3)


def test_only_the_distance_grows_with_contrast(getkey):
    images = jr.uniform(getkey(), (1, 8, 8, 3))
    faded = 0.25 + 0.5 * images
    distance, correlation = (RotationAntiCorrelation(form=form) for form in _FORMS)
    assert_close(4 * _score(distance, faded), _score(distance, images))
    np.testing.assert_allclose(
        _score(correlation, faded), _score(correlation, images), atol=1e-3
    )


@pytest.mark.parametrize("form", _FORMS)
def test_quarter_turns_score_alike(form, getkey):
    images = jr.uniform(getkey(), (2, 8, 8, 3))
    rewards = [RotationAntiCorrelation(form=form, angles=(a,)) for a in (90, 270)]
    assert_close(*_score_all(rewards, images))


@pytest.mark.parametrize("form", _FORMS)
def test_images_do_not_talk_to_each_other(form, getkey):
    reward = RotationAntiCorrelation(form=form)
    images = jr.uniform(getkey(), (3, 8, 8, 3))
    alone = jnp.concatenate([_score(reward, images[i : i + 1]) for i in range(3)])
    assert_close(_score(reward, images), alone)


@pytest.mark.parametrize("form", _FORMS)
def test_ascending_the_gradient_ascends_the_reward(form, getkey):
    reward = RotationAntiCorrelation(form=form)
    images = jr.uniform(getkey(), (2, 8, 8, 3))
    grad = _grad(reward, images)
    assert jnp.all(jnp.isfinite(grad))
    assert jnp.all(
        _score(reward, images + 1e-3 * jnp.sign(grad)) > _score(reward, images)
    )


@pytest.mark.parametrize("form", _FORMS)
def test_gradient_is_finite_at_flat_images(form):
    levels = jnp.asarray([0.0, 1.0, 0.5])[:, None, None, None]
    images = jnp.broadcast_to(levels, (3, 8, 8, 3))
    grad = _grad(RotationAntiCorrelation(form=form), images)
    assert jnp.all(jnp.isfinite(grad))


def test_bfloat16_images(getkey):
    images = jr.uniform(getkey(), (2, 8, 8, 3), jnp.bfloat16)
    reward = RotationAntiCorrelation()
    assert_close(_score(reward, images), _score(reward, images.astype(jnp.float32)))


def test_half_turns_take_any_size(getkey):
    images = jr.uniform(getkey(), (2, 12, 16, 3))
    assert _score(RotationAntiCorrelation(angles=(180,)), images).shape == (2,)
    with pytest.raises(ValueError, match="`images` must be square .* got 12x16"):
        RotationAntiCorrelation(angles=(180, 270))(images)


@pytest.mark.parametrize("angles", [(), (45,), (90, 90), (0, 90)])
def test_angles_error_text(angles):
    with pytest.raises(ValueError, match="`angles` must be a non-empty subset of"):
        RotationAntiCorrelation(angles=angles)


def test_epsilon_error_text():
    with pytest.raises(ValueError, match="`epsilon` must be positive; got 0.0"):
        RotationAntiCorrelation(epsilon=0.0)
