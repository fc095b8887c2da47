import io

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads
from PIL import Image
from scipy import ndimage

from draftx.rewards import Degradation

from ..helpers import assert_close


_IMAGES = jr.uniform(jr.key(0), (2, 32, 48, 3))


def test_blur_and_fewer_pixels_are_scipys():
    got = Degradation(4, blur=1.5)(_IMAGES)
    blurred = ndimage.gaussian_filter(
        np.asarray(_IMAGES, np.float64), (0, 1.5, 1.5, 0), mode="nearest", truncate=4.0
    )
    wanted = blurred.reshape(2, 8, 4, 12, 4, 3).mean(axis=(2, 4))
    assert_close(got, wanted.astype(np.float32), scale=5.0)


def test_fewer_pixels_are_pillows():
    degraded = Degradation(4)(_IMAGES)
    for image, got in zip(np.asarray(_IMAGES), degraded, strict=True):
        for channel in range(3):
            small = Image.fromarray(image[..., channel]).resize(
                (12, 8), Image.Resampling.BOX
            )
            assert_close(got[..., channel], np.asarray(small), scale=5.0)


def test_compression_is_a_jpeg_files():
    smooth = Degradation(2, blur=2.0)(_IMAGES)
    got = Degradation(2, blur=2.0, quality=50)(_IMAGES)
    for image, compressed in zip(np.asarray(smooth), got, strict=True):
        file = io.BytesIO()
        Image.fromarray(np.round(255 * image).astype(np.uint8)).save(
            file, "JPEG", quality=50
        )
        # Pixels are not rounded here, for the sake of the derivative.
        wanted = np.asarray(Image.open(file), np.float32) / 255
        assert np.abs(np.asarray(compressed) - wanted).mean() < 2 / 255


def test_noise_is_drawn_with_a_key_alone():
    degradation = Degradation(1, noise=0.1)
    gray = jnp.full((4, 64, 64, 3), 0.5)
    np.testing.assert_array_equal(degradation(gray), gray)
    noisy = degradation(gray, jr.key(0))
    assert float(jnp.std(noisy - gray)) == pytest.approx(0.1, rel=0.02)
    compressed = Degradation(1, noise=0.5, quality=90)(gray, jr.key(0))
    assert [float(jnp.min(compressed)), float(jnp.max(compressed))] == [0, 1]


def test_what_overshoots_is_pulled_back_unless_jpeg_cuts_it():
    images = 1.4 * _IMAGES - 0.2
    pull = lambda degrade: jax.grad(lambda x: 0.5 * jnp.sum(degrade(x) ** 2))(images)
    assert_close(pull(Degradation(1)), images)
    # Every pixel is of one mean alone, a quarter of it.
    small = Degradation(2)(images)
    assert float(jnp.max(small)) > 1
    enlarged = jnp.repeat(jnp.repeat(small, 2, axis=1), 2, axis=2)
    assert_close(pull(Degradation(2)), enlarged / 4)
    is_cut = (images < 0) | (images > 1)
    assert bool(jnp.all(pull(Degradation(1, quality=90))[is_cut] == 0))


def test_its_derivative_is_that_of_finite_differences():
    degradation = Degradation(4, blur=1.0)
    with jax.enable_x64(True):
        x = jr.uniform(jr.key(1), (1, 8, 8, 3), jnp.float64, 0.2, 0.8)
        loss = lambda x: jnp.sum(jnp.sin(3 * degradation(x)))
        check_grads(jax.jit(loss), (x,), order=1, modes=["rev"])
    compressed = jax.grad(lambda x: jnp.sum(Degradation(4, quality=50)(x)))(_IMAGES)
    assert bool(jnp.any(compressed != 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0}, "`factor` must be"),
        ({"factor": 4, "blur": -1.0}, "`blur` must be"),
        ({"factor": 4, "noise": float("nan")}, "`noise` must be"),
        ({"factor": 4, "quality": 101}, "`quality` must be"),
        ({"factor": 5}, "sides that `factor` divides, 5; got 32x48"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Degradation(**options)(_IMAGES)
