"""Latents between signal and noise, and what a model says of them."""

import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.diffusion import mix, training_target
from draftx.diffusion._interpolant import clip, unmix

from ..goldens.make_scheduler import PREDICTIONS
from ..helpers import assert_close
from ..toys import config


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_what_a_model_was_trained_to_say_means_what_was_mixed(prediction_type, getkey):
    clean, noise = jr.normal(getkey(), (2, 2, 3, 3, 4))
    numbers = jnp.asarray(0.6), jnp.asarray(0.8)
    target = training_target(prediction_type, clean, noise, *numbers)
    latents = mix(clean, noise, *numbers)
    assert_close(latents, 0.6 * clean + 0.8 * noise)
    assert_close(unmix(prediction_type, latents, target, *numbers), (clean, noise))


def test_predictions_are_clipped_where_the_file_says_so():
    x0 = jnp.linspace(-2, 2, 5)[None, None, :, None]
    assert clip(config(clip_sample=False, clip_sample_range=0.5), x0) is x0
    clipped = clip(config(clip_sample=True, clip_sample_range=1.5), x0)
    assert clipped.ravel().tolist() == [-1.5, -1, 0, 1, 1.5]
