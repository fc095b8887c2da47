import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.rewards._preprocess import (
    center_crop,
    check_images,
    clip_preprocess,
    hps_preprocess,
    normalize,
    pad_to_square,
    resize,
    resize_longest_edge,
    resize_shortest_edge,
)

from ..goldens import make_clip
from ..helpers import assert_close


@pytest.mark.parametrize("size", make_clip.SIZES)
def test_resizes_as_pillow(size):
    with np.load(make_clip.FOLDER / "preprocess.npz") as file:
        image, expected = file["in/image"], file["out/{}x{}".format(*size)]
    assert_close(resize(jnp.asarray(image)[None], *size)[0], jnp.asarray(expected))


def test_shapes_keep_the_proportions():
    images = jnp.zeros((1, 30, 20, 3))
    for function, size, expected in (
        (resize_shortest_edge, 7, (10, 7)),
        (resize_longest_edge, 7, (7, 5)),
        (resize_shortest_edge, 20, (30, 20)),
    ):
        shape = jax.eval_shape(lambda x, f=function, s=size: f(x, s), images).shape
        assert shape == (1, *expected, 3)


def test_crop_pad_and_normalize(getkey):
    images = jr.uniform(getkey(), (2, 9, 4, 3))
    x = np.asarray(images)
    assert_close(center_crop(images, 4), jnp.asarray(x[:, 2:6]))
    padded = np.pad(x, ((0, 0), (0, 0), (2, 3), (0, 0)))
    assert_close(pad_to_square(images, 9), jnp.asarray(padded))
    mean, std = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 4])
    expected = jnp.asarray((x - mean) / std)
    assert_close(normalize(images, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)), expected)


def test_an_image_of_the_right_size_is_not_resampled(getkey):
    images = jr.uniform(getkey(), (1, 8, 8, 3))
    assert resize(images, 8, 8) is images
    assert_close(hps_preprocess(images, 8), clip_preprocess(images, 8))
    half = images.astype(jnp.bfloat16)
    assert clip_preprocess(half, 8).dtype == jnp.float32


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "have the axes .* `image\\[None\\]`"),
        (np.zeros((2, 3, 8, 8), np.float32), "channels last .* `jnp.moveaxis"),
        (np.zeros((2, 8, 8, 4), np.float32), "channels last .* alpha"),
        (np.zeros((2, 8, 8, 3), np.uint8), "got uint8. Divide bytes by 255"),
        (np.full((1, 8, 8, 3), 255, np.float32), "to 255. Divide by 255"),
        (np.full((1, 8, 8, 3), -1, np.float32), "from -1 to -1. Map"),
    ],
)
def test_images_error_text(images, message):
    with pytest.raises(ValueError, match=f"`images` must .*{message}"):
        check_images(jnp.asarray(images))


def test_the_range_is_not_looked_at_inside_jit():
    jax.eval_shape(lambda x: check_images(x), jnp.full((1, 8, 8, 3), 255.0))
    check_images(jnp.full((1, 8, 8, 3), 1.05))
