from typing import get_args

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.rewards import RotationAntiCorrelation
from draftx.rewards._rotation import Form

from ..helpers import assert_close


_FORMS = ("distance", "correlation")


@eqx.filter_jit
def _score(reward, images):
    return reward(images)


@eqx.filter_jit
def _score_all(rewards, images):
    return [reward(images) for reward in rewards]


def _half_white(size=8):
    """White above, black below: its own negative, upside down."""
    rows = jnp.arange(size) < size // 2
    image = jnp.broadcast_to(rows[:, None, None], (size, size, 3))
    return image[None].astype(jnp.float32)


def _numpy_score(image, angle, form):
    rotated = np.rot90(image, angle // 90)
    if form == "distance":
        return np.mean((image - rotated) ** 2)
    if form == "l2":
        return np.linalg.norm(image - rotated) / np.sqrt(image.size)
    if form == "l1":
        return np.mean(np.abs(image - rotated))
    if form == "cosine":
        return -np.sum(image * rotated) / np.sum(image**2)
    centered = [x - x.mean((0, 1)) for x in (image, rotated)]
    return -np.corrcoef(*(x.ravel() for x in centered))[0, 1]


@pytest.mark.parametrize("form", get_args(Form))
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


def test_the_least_over_the_angles(getkey):
    """An image that is its own half turn resembles a rotation, whatever the others."""
    noise = jr.uniform(getkey(), (1, 8, 8, 3))
    image = 0.5 * (noise + jnp.rot90(noise, 2, axes=(1, 2)))
    least, mean = (RotationAntiCorrelation(reduction=r) for r in ("min", "mean"))
    assert _score(least, image)[0] == 0
    assert _score(mean, image)[0] > 0.01


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
