"""Images decoded in turn: those of the whole batch, and their gradient."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx._compilation import compiled
from draftx._mesh import data_mesh
from draftx.kernels import compiling_for
from draftx.layers import Remat
from draftx.pipeline import _sample, decoding
from draftx.pipeline._decoding import OneByOne

from ..helpers import assert_close


@pytest.fixture(scope="module")
def pipeline():
    return draftx.load("tiny")


def _contrast(images):
    """A reward of the batch as a whole: no image is worth anything on its own."""
    return jnp.sum((images[::2] - images[1::2]) ** 2)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_images_and_gradients_are_those_of_the_whole(pipeline, at_once, getkey):
    latents = jr.normal(getkey(), (4, *pipeline.latent_shape))

    def value_and_gradient(decode):
        fn = lambda latents: _contrast(decode(latents, remat=Remat.STEP))
        return jax.jit(jax.value_and_grad(fn))(latents)

    expected = value_and_gradient(pipeline.decode)
    actual = value_and_gradient(OneByOne(pipeline.decode, at_once))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
        *(actual, expected),
    )


def _decoded(decode, remat, count=4):
    """How many images each call of a decoder is given."""
    sizes = []

    def decoder(latents, remat=None):
        sizes.append((len(latents), remat))
        return latents

    jax.make_jaxpr(lambda x: decode(decoder)(x, remat=remat))(
        jnp.zeros((count, 1, 1, 3))
    )
    return sizes


def test_a_tpu_decodes_one_image_of_each_device():
    with compiling_for("tpu"):
        alone = _decoded(lambda decoder: decoding(decoder, None), Remat.STEP)
        mesh = data_mesh(local=True)
        shared = _decoded(lambda decoder: decoding(decoder, mesh), Remat.STEP, 3)
        kept = _decoded(lambda decoder: decoding(decoder, None), Remat.FF)
    assert alone == [(1, Remat.NONE)]
    assert shared == [(mesh.size, Remat.NONE)]
    assert kept == [(4, Remat.FF)]


def test_a_tpu_draws_so_too(pipeline, monkeypatch):
    """Who draws says nothing of a tier."""
    sizes = []
    decode = type(pipeline).decode

    def seen(self, latents, **options):
        sizes.append(len(latents))
        return decode(self, latents, **options)

    monkeypatch.setattr(type(pipeline), "decode", seen)
    draw = lambda: draftx.sample(pipeline, ["a fox"] * 3, draftx.Sampling(1))
    whole = draw()
    monkeypatch.setattr(_sample, "decoding", lambda decode, mesh: OneByOne(decode, 1))
    # Another function, which is not traced yet.
    fn = _sample._sample.__wrapped__
    monkeypatch.setattr(_sample, "_sample", compiled()(lambda *args: fn(*args)))
    assert_close(draw(), whole)
    assert sizes == [3, 1]


def test_what_cannot_be_divided_stays_together():
    decode = lambda decoder: OneByOne(decoder, 3)
    assert _decoded(decode, Remat.STEP) == [(4, Remat.STEP)]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_other_devices_decode_a_batch(pipeline, platform):
    with compiling_for(platform):
        assert decoding(pipeline.decode, None) == pipeline.decode


def test_nothing_is_known_of_where_the_images_of_several_devices_are(
    pipeline, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    with compiling_for("tpu"):
        assert decoding(pipeline.decode, None) == pipeline.decode
