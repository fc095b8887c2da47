"""Pictures that images attend to, through a whole UNet."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.diffusion import Denoiser, Guided, Reference
from draftx.layers import Remat

from ..helpers import assert_close


@pytest.fixture(scope="module")
def unet(short_pipeline):
    return short_pipeline.unet


def _inputs(getkey):
    latents, text = jr.normal(getkey(), (2, 8, 8, 4)), jr.normal(getkey(), (2, 9, 12))
    levels = jnp.asarray([0.6, 0.8]), jnp.asarray([0.8, 0.6])
    picture, noise = jr.normal(getkey(), (2, 1, 8, 8, 4))
    return latents, text, Reference(picture, noise, *levels)


def _denoiser(unet, text, *args, **options):
    beside = jnp.concatenate([text, text[:1]]) if options.get("reference") else text
    return Denoiser(unet, jnp.asarray([700, 300]), beside, *args, **options)


def test_a_picture_is_noised_as_its_images_are(unet, getkey):
    latents, text, reference = _inputs(getkey)
    index = jnp.asarray(1)
    actual = _denoiser(unet, text, reference=reference)(latents, index)
    noised = 0.8 * reference.latents + 0.6 * reference.noise
    shifts = unet.time_shifts(jnp.asarray([300]))
    context = unet.text_context(jnp.concatenate([text, text[:1]]))
    rows = jnp.concatenate([latents, noised])
    expected = unet.denoise(rows, shifts, context, num_references=1)
    assert_close(actual, expected[:2], scale=5)
    alone = _denoiser(unet, text)(latents, index)
    assert float(jnp.abs(actual - alone).max()) > 1e-4
    # The picture itself is drawn as without images.
    by_itself = unet.denoise(noised, shifts, unet.text_context(text[:1]))
    assert_close(expected[2:], by_itself, scale=5)


def test_blocks_are_computed_again_with_their_reference(unet, getkey):
    latents, text, reference = _inputs(getkey)

    def loss(latents, remat):
        denoiser = _denoiser(unet, text, reference=reference, remat=remat)
        return jnp.sum(denoiser(latents, jnp.asarray(0)) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    expected = gradient(latents, Remat.NONE)
    assert_close(gradient(latents, Remat.BLOCK), expected, scale=10)


def test_guidance_of_two_denoisers_is_that_of_one(unet, getkey):
    latents, text, _ = _inputs(getkey)
    negative, scale, index = text + 1, jnp.asarray(3.0), jnp.asarray(0)
    both = _denoiser(unet, text, negative, scale)(latents, index)
    apart = Guided(_denoiser(unet, text), _denoiser(unet, negative), scale)
    assert_close(apart(latents, index), both, scale=10)


def test_guidance_beside_a_reference_is_refused(unet, getkey):
    _, text, reference = _inputs(getkey)
    text = jnp.concatenate([text, text[:1]])
    with pytest.raises(ValueError, match="`negative_text_embeddings` must be None"):
        Denoiser(
            unet,
            jnp.asarray([700, 300]),
            text,
            text,
            jnp.asarray(2.0),
            reference=reference,
        )


@pytest.mark.parametrize("num_references", [2, 3])
def test_references_that_do_not_fit_are_named(num_references, unet):
    latents = jnp.zeros((3, 8, 8, 4))
    context = unet.text_context(jnp.zeros((3, 9, 12)))
    shifts = unet.time_shifts(jnp.asarray([1]))
    with pytest.raises(ValueError, match="`num_references` must divide the rows"):
        unet.denoise(latents, shifts, context, num_references=num_references)


def test_without_references_a_program_is_as_it_was(unet):
    """Not one operation of it is for what is not asked for."""
    latents, text = jnp.zeros((2, 8, 8, 4)), jnp.zeros((2, 9, 12))
    arrays, static = eqx.partition(unet, eqx.is_array)

    def names(**options):
        def call(arrays):
            unet = eqx.combine(arrays, static)
            shifts = unet.time_shifts(jnp.asarray([1]))
            return unet.denoise(latents, shifts, unet.text_context(text), **options)

        return str(jax.make_jaxpr(call)(arrays))

    parts = lambda text: [text.count(f" {name}") for name in ("concat", "dot_general")]
    with_one, without = names(num_references=1), names()
    assert names(num_references=0) == without
    assert all(
        more > n for more, n in zip(parts(with_one), parts(without), strict=True)
    )
    # Those of the skips, and of sine and cosine of the time.
    assert parts(without)[0] == len(unet.up_blocks) * 2 + 1
