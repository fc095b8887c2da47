"""Pictures whose tokens are attended to, in a denoiser with and without guidance."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.diffusion import Denoiser, ImagePrompt
from draftx.models import ImageTokens

from ..helpers import assert_close


_SCALE = jnp.asarray(0.6)
_TIMES = jnp.asarray([700, 300])


@pytest.fixture(scope="module")
def tokens(short_pipeline):
    config = short_pipeline.unet.config
    return ImageTokens(config, embedding_features=3, num_tokens=2, key=jr.key(7))


def _apart(unet, tokens, latents, text, embeddings):
    context = tokens.beside(unet.text_context(text), embeddings, _SCALE)
    return unet.denoise(latents, unet.time_shifts(_TIMES[1:]), context)


@pytest.mark.parametrize("in_negative", [False, True])
def test_guidance_leads_away_from_no_picture(
    in_negative, short_pipeline, tokens, getkey
):
    unet = short_pipeline.unet
    latents, text = jr.normal(getkey(), (2, 8, 8, 4)), jr.normal(getkey(), (2, 9, 12))
    embeddings, guidance = jr.normal(getkey(), (2, 3)), jnp.asarray(3.0)
    prompt = ImagePrompt(tokens, embeddings, _SCALE, in_negative)
    denoiser = Denoiser(unet, _TIMES, text, text + 1, guidance, image_prompt=prompt)
    away = embeddings if in_negative else jnp.zeros_like(embeddings)
    negative = _apart(unet, tokens, latents, text + 1, away)
    positive = _apart(unet, tokens, latents, text, embeddings)
    expected = negative + guidance * (positive - negative)
    assert_close(denoiser(latents, jnp.asarray(1)), expected, scale=10)


def test_gradients_go_to_pictures_and_texts(short_pipeline, tokens, getkey):
    """Through what is computed once for a chain, too."""
    unet = short_pipeline.unet
    latents, text = jr.normal(getkey(), (2, 8, 8, 4)), jr.normal(getkey(), (2, 9, 12))
    embeddings = jr.normal(getkey(), (2, 3))

    def loss(call):
        return lambda *args: jnp.sum(call(*args) ** 2)

    def chained(tokens, latents, text, embeddings):
        prompt = ImagePrompt(tokens, embeddings, _SCALE)
        denoiser = Denoiser(unet, _TIMES, text, image_prompt=prompt)
        return denoiser(latents, jnp.asarray(1))

    args = (tokens, latents, text, embeddings)
    gradient = lambda call: jax.jit(jax.grad(loss(call), argnums=(0, 1, 2, 3)))(*args)
    expected = gradient(lambda *args: _apart(unet, *args))
    assert_close(gradient(chained), expected, scale=20)
