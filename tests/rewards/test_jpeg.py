"""The codec against Pillow, its own derivative, and its error texts."""

import functools as ft
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import features

from draftx.rewards import jpeg_roundtrip, quantization_tables

from ..goldens.make_jpeg import pictures, pillow_roundtrip, SUBSAMPLINGS


_GOLDEN = pathlib.Path(__file__).parent.parent / "goldens" / "jpeg.npz"

# The quality is traced, so that one compilation serves all of them.
_jit_roundtrip = jax.jit(jpeg_roundtrip, static_argnames=("subsampling", "rounding"))
_hard = ft.partial(_jit_roundtrip, rounding="hard")


def _to_bytes(images):
    scaled = 255 * np.asarray(images, np.float64)
    assert np.max(np.abs(scaled - np.rint(scaled))) < 1e-3
    return np.rint(scaled).astype(np.uint8)


def _from_bytes(images):
    return jnp.asarray(images, jnp.float32) / 255


def _psnr(actual, expected):
    error = np.asarray(actual, np.float64) - np.asarray(expected, np.float64)
    return -10 * np.log10(np.mean(error**2) + 1e-20)


def _assert_same_bytes(actual, expected):
    """Equal, but for the one block whose coefficient another machine rounds apart."""
    actual, expected = _to_bytes(actual), np.stack(expected)
    assert actual.shape == expected.shape
    assert np.mean(actual != expected) < 0.02
    assert _psnr(actual / 255, expected / 255) > 50


@pytest.mark.parametrize("name", ["smooth", "flat", "noisy", "edges"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_decodes_the_golden_files(name, subsampling):
    with np.load(_GOLDEN) as golden:
        image = _from_bytes(golden[f"original_{name}"])[None]
        decoded = golden[f"decoded_{name}_{subsampling}"]
        qualities = golden["qualities"]
    actual = [_hard(image, jnp.asarray(q, jnp.int32), subsampling) for q in qualities]
    _assert_same_bytes(jnp.concatenate(actual), decoded)


# At a width of four, chroma is too narrow for the triangle filter.
@pytest.mark.parametrize("size", [(33, 47), (17, 4), (1, 1)])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_decodes_what_the_installed_pillow_decodes(size, subsampling):
    if not features.check("libjpeg_turbo"):
        pytest.skip("Pillow was built with another JPEG library.")
    images = np.stack(list(pictures(*size).values()))
    qualities = (1, 10, 30, 50, 75, 90, 95, 100)
    expected = [pillow_roundtrip(x, q, subsampling) for q in qualities for x in images]
    images = _from_bytes(images)
    actual = [_hard(images, jnp.asarray(q), subsampling) for q in qualities]
    _assert_same_bytes(jnp.concatenate(actual), expected)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_cubic_stays_near_hard(subsampling):
    image = _from_bytes(pictures(40, 56)["smooth"])[None]
    quality = jnp.asarray(75)
    hard = _hard(image, quality, subsampling)
    cubic = _jit_roundtrip(image, quality, subsampling, rounding="cubic")
    assert _psnr(cubic, hard) > 38


def test_steps_of_one_and_two_hundred_percent():
    # Quality 50 is the standard's own table, 100 is all ones, 1 saturates a byte.
    tables = {q: np.asarray(quantization_tables(q)) for q in (1, 10, 25, 50, 100)}
    assert tables[50][0, 0, 0] == 16
    assert tables[50][1, 7, 7] == 99
    np.testing.assert_array_equal(tables[25], np.minimum(2 * tables[50], 255))
    np.testing.assert_array_equal(tables[10], np.minimum(5 * tables[50], 255))
    np.testing.assert_array_equal(tables[100], np.ones((2, 8, 8)))
    np.testing.assert_array_equal(tables[1], np.full((2, 8, 8), 255))


def test_python_and_traced_quality_agree(getkey):
    images = jr.uniform(getkey(), (2, 16, 24, 3))
    expected = jax.jit(lambda x: jpeg_roundtrip(x, 37))(images)
    actual = _hard(images, jnp.asarray(37))
    np.testing.assert_array_equal(_to_bytes(actual), _to_bytes(expected))


def test_images_outside_the_range_are_clipped(getkey):
    images = 2 * jr.normal(getkey(), (1, 16, 16, 3))
    actual, expected = (_hard(x, jnp.asarray(50)) for x in (images, images.clip(0, 1)))
    np.testing.assert_array_equal(actual, expected)
    assert jnp.all((actual >= 0) & (actual <= 1))


def test_bfloat16_is_computed_in_float32(getkey):
    images = jr.uniform(getkey(), (1, 16, 16, 3), jnp.bfloat16)
    actual = _hard(images, jnp.asarray(50))
    assert actual.dtype == jnp.float32
    expected = _hard(images.astype(jnp.float32), jnp.asarray(50))
    np.testing.assert_array_equal(actual, expected)


def test_hard_rounding_has_derivative_zero(getkey):
    images = jr.uniform(getkey(), (1, 16, 16, 3))
    grad = jax.jit(jax.grad(lambda x: jnp.sum(jpeg_roundtrip(x, 50) ** 2)))(images)
    assert jnp.all(grad == 0)


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_cubic_derivative_matches_finite_differences(subsampling):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        # Away from 0 and 1, where pixels are clipped.
        x = jnp.asarray(rng.uniform(0.35, 0.65, (1, 19, 21, 3)))
        direction, cotangent = (jnp.asarray(rng.normal(size=x.shape)) for _ in range(2))

        @jax.jit
        @jax.value_and_grad
        def f(x):
            decoded = jpeg_roundtrip(x, 90, subsampling, rounding="cubic")
            return jnp.sum(decoded * cotangent)

        # Far below the distance of any coefficient to its next midpoint, and in
        # float64 far above the noise of the difference.
        h = 1e-6
        (above, _), (below, _) = f(x + h * direction), f(x - h * direction)
        actual = jnp.sum(f(x)[1] * direction)
        np.testing.assert_allclose(actual, (above - below) / (2 * h), rtol=1e-5)


def test_error_texts(getkey):
    images = jr.uniform(getkey(), (1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"`quality` must lie in \[1, 100\]; got 101"):
        jpeg_roundtrip(images, 101)
    with pytest.raises(ValueError, match=r"`quality` must lie in \[1, 100\]; got 0"):
        jpeg_roundtrip(images, 0)
    with pytest.raises(ValueError, match=r"`images` must have .* got \(8, 8, 3\)"):
        jpeg_roundtrip(images[0], 50)
    with pytest.raises(ValueError, match=r"`images` must have .* got \(1, 8, 8, 1\)"):
        jpeg_roundtrip(images[..., :1], 50)
    with pytest.raises(ValueError, match="`images` must be floating.*got uint8"):
        jpeg_roundtrip((255 * images).astype(jnp.uint8), 50)


def test_names_are_checked():
    # Called without the annotations' own check, as a user's program would be.
    from draftx.rewards.jpeg._codec import check_codec_arguments

    with pytest.raises(ValueError, match="`subsampling` must be one of .*got '4:1:1'"):
        check_codec_arguments(50, "4:1:1", "hard")
    with pytest.raises(ValueError, match="`rounding` must be one of .*got 'soft'"):
        check_codec_arguments(50, "4:2:0", "soft")
