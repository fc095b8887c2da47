"""Profiles tell which network and which block an operation belongs to."""

import jax
import jax.numpy as jnp
import pytest

from draftx.layers import Remat


@pytest.fixture(scope="module")
def pipeline(base_pipeline):
    return base_pipeline


def _names(call, *args):
    return jax.jit(call).lower(*args).as_text(debug_info=True)


def test_every_network_and_block_is_named(pipeline):
    def run(pipeline, ids, latents):
        text = pipeline.text_encoder(ids)
        predicted = pipeline.unet(latents, jnp.asarray([7]), text)
        images = pipeline.vae.decode(predicted)
        return pipeline.vae.encode(images)

    ids, latents = jnp.zeros((1, 4), int), jnp.zeros((1, 8, 8, 4))
    names = _names(run, pipeline, ids, latents)
    for scope in (
        "draftx.clip.text/encoder_layer/attention/linear",
        "draftx.clip.text/encoder_layer/mlp",
        "draftx.unet/down_block/resnet/group_norm",
        "draftx.unet/down_block/transformer/transformer_block/attention",
        "draftx.unet/mid_block/transformer/transformer_block/feed_forward",
        "draftx.unet/up_block/resnet/conv",
        "draftx.unet.time_shifts/timestep_embedding",
        "draftx.unet.text_context/key_value",
        "draftx.vae.decode/decoder/mid_block/pixel_attention",
        "draftx.vae.decode/decoder/up_block/resnet",
        "draftx.vae.encode/encoder/down_block/resnet",
    ):
        assert scope in names, scope


def test_the_backward_pass_is_named_too(pipeline):
    def loss(latents, unet, text):
        predicted = unet(latents, jnp.asarray([7]), text, remat=Remat.BLOCK)
        return jnp.sum(predicted)

    latents, text = jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 4, 12))
    names = _names(jax.grad(loss), latents, pipeline.unet, text)
    assert "transpose(jvp(draftx.unet))" in names
