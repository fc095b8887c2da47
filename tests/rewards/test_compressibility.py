import functools as ft
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

from draftx.rewards import jpeg_roundtrip, JPEGCompressibility, JPEGIncompressibility

from ..goldens.make_jpeg import pictures
from ..helpers import assert_close


_NORMS = ("squared_l2", "l2", "l1", "mse")


@eqx.filter_jit
def _value_and_grad(reward, images):
    value, vjp = jax.vjp(reward, images)
    return value, vjp(jnp.ones_like(value))[0]


_hard = jax.jit(ft.partial(jpeg_roundtrip, rounding="hard"), static_argnums=2)


@eqx.filter_jit
def _values_and_grads(rewards, images):
    values, grads = zip(*(_value_and_grad(r, images) for r in rewards), strict=True)
    return jnp.stack(values), jnp.stack(grads)


def _call_all(rewards, images):
    # One compilation for all of them, and one round trip where they share it.
    return [reward(images) for reward in rewards]


def _images(height=16, width=24):
    chosen = pictures(height, width)
    stacked = np.stack([chosen[name] for name in ("flat", "smooth", "noisy")])
    return jnp.asarray(stacked, jnp.float32) / 255


@pytest.mark.parametrize("rounding", ["hard", "cubic"])
def test_simpler_is_better(rounding):
    rewards = [JPEGCompressibility(norm=norm, rounding=rounding) for norm in _NORMS]
    for scores in eqx.filter_jit(_call_all)(rewards, _images()):
        assert scores.shape == (3,)
        assert scores.dtype == jnp.float32
        assert jnp.all(scores <= 0)
        assert scores[0] > scores[1] > scores[2]


def test_incompressibility_is_the_negative():
    arguments = dict(quality=35, subsampling="4:4:4", rounding="hard", norm="l1")
    rewards = [JPEGCompressibility(**arguments), JPEGIncompressibility(**arguments)]
    plus, minus = eqx.filter_jit(_call_all)(rewards, _images())
    assert_close(plus, -minus)
    assert JPEGIncompressibility().compressibility == JPEGCompressibility()


def test_norms():
    images = _images()
    error = np.asarray(images - _hard(images, 60)).reshape(3, -1)
    l1, l2 = (-np.linalg.norm(error, ord=order, axis=1) for order in (1, 2))
    rewards = [
        JPEGCompressibility(quality=60, rounding="hard", norm=norm) for norm in _NORMS
    ]
    actual = eqx.filter_jit(_call_all)(rewards, images)
    np.testing.assert_allclose(
        actual, (-(l2**2), l2, l1, -(l2**2) / error.shape[1]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("rounding", ["hard", "cubic"])
def test_gradient_is_finite_at_flat_images(rounding):
    # Black comes back exactly, so that each norm is zero there.
    levels = jnp.asarray([0.0, 1.0, 128 / 255])[:, None, None, None]
    images = jnp.broadcast_to(levels, (3, 16, 24, 3))
    rewards = [JPEGCompressibility(norm=norm, rounding=rounding) for norm in _NORMS]
    values, grads = _values_and_grads(rewards, images)
    assert jnp.all(jnp.isfinite(values))
    assert jnp.all(jnp.isfinite(grads))
    assert jnp.all(values[:, 0] == 0)
    assert jnp.all(grads[:, 0] == 0)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_hard_gradient_pulls_to_the_decoded_image(subsampling, getkey):
    images = jr.uniform(getkey(), (2, 16, 24, 3))
    reward = JPEGCompressibility(quality=50, subsampling=subsampling, rounding="hard")
    _, grad = _value_and_grad(reward, images)
    assert_close(grad, -2 * (images - _hard(images, 50, subsampling)))


@pytest.mark.parametrize("rounding", ["hard", "cubic", "hard_cubic"])
def test_one_coefficient_by_hand(rounding):
    # A gray image whose one nonzero coefficient is a fraction e of its step. Cubic
    # rounding leaves e ** 3 of it, so that the error is e - e ** 3 steps; hard
    # rounding leaves nothing. Straight-through rounding would score the derivative 0.
    # With "hard_cubic" the value is the one's and the slope of the codec the other's.
    u, v, step = 2, 3, 24  # Entry (2, 3) of the luminance table at quality 50.
    i = np.arange(8)
    rows, columns = (np.cos(np.pi * (2 * i + 1) * k / 16) / 2 for k in (u, v))
    basis = jnp.asarray(np.outer(rows, columns), jnp.float32)[None, :, :, None]
    reward = JPEGCompressibility(quality=50, rounding=rounding)

    @jax.jit
    @jax.value_and_grad
    def score(fraction):
        image = 128 / 255 + (step / 255) * fraction * basis
        return reward(jnp.broadcast_to(image, (1, 8, 8, 3)))[0]

    scale = 3 * (step / 255) ** 2  # Three equal channels.
    for e in (0.1, 0.3, 0.45):
        left = e**3 if rounding == "cubic" else 0.0
        slope = 1.0 if rounding == "hard" else 1 - 3 * e**2
        value, grad = score(jnp.asarray(e))
        np.testing.assert_allclose(value, -scale * (e - left) ** 2, rtol=2e-3)
        np.testing.assert_allclose(grad, -2 * scale * (e - left) * slope, rtol=2e-3)


def _file_sizes(images):
    sizes = []
    for image in np.rint(255 * np.asarray(images)).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        sizes.append(file.tell())
    return np.asarray(sizes)


@pytest.mark.parametrize("cls", [JPEGCompressibility, JPEGIncompressibility])
def test_ascent_changes_real_files(cls):
    chosen = pictures(40, 56)
    stacked = np.stack([chosen[name] for name in ("smooth", "noisy", "edges")])
    start = images = jnp.asarray(stacked, jnp.float32) / 255
    for _ in range(25):
        _, grad = _value_and_grad(cls(), images)
        size = jnp.sqrt(jnp.mean(grad**2, axis=(1, 2, 3), keepdims=True))
        images = jnp.clip(images + 0.005 * grad / size, 0, 1)
    ratios = _file_sizes(images) / _file_sizes(start)
    if cls is JPEGCompressibility:
        assert np.all(ratios < 0.93)
    else:
        # Noise and clipped colors have little room left.
        assert np.all(ratios > 1)
        assert ratios[0] > 1.2


def test_a_factor_multiplies_the_tables():
    """Twice the steps of quality 50 are those of quality 25."""
    for factor, quality in ((1.0, 50), (2, 25)):
        rewards = [
            JPEGCompressibility(factor=factor),
            JPEGCompressibility(quality=quality),
        ]
        by_factor, by_quality = eqx.filter_jit(_call_all)(rewards, _images())
        assert_close(by_factor, by_quality)


def test_error_texts():
    for cls in (JPEGCompressibility, JPEGIncompressibility):
        with pytest.raises(ValueError, match=r"`quality` must lie .* got 0\. 1 is"):
            cls(quality=0)
        with pytest.raises(ValueError, match="`factor` must be positive; got 0"):
            cls(factor=0)
