import functools as ft
import warnings

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx

from ..helpers import assert_close
from ..io.tiny import random_lora
from ..toys import with_options


_SAMPLING = draftx.Sampling(num_inference_steps=3, guidance_scale=3.0)


@pytest.fixture(scope="module")
def pipeline(base_pipeline):
    return base_pipeline


def _sample(pipeline, prompts=("cat", "do"), *, key=None, latents=None, **options):
    sampling = with_options(_SAMPLING, **options)
    return draftx.sample(pipeline, list(prompts), sampling, key=key, latents=latents)


def test_images_are_in_range_and_deterministic(pipeline):
    images = _sample(pipeline)
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == jnp.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    np.testing.assert_array_equal(images, _sample(pipeline, key=jr.key(0)))


def test_latents_override_the_key(pipeline):
    latents = jr.normal(jr.key(3), (2, 8, 8, 4))
    one = _sample(pipeline, latents=latents, key=jr.key(1))
    np.testing.assert_array_equal(one, _sample(pipeline, latents=np.asarray(latents)))


def test_images_do_not_talk_to_each_other(pipeline):
    latents = jr.normal(jr.key(3), (2, 8, 8, 4))
    both = _sample(pipeline, latents=latents)
    second = _sample(pipeline, ["do"], latents=latents[1:])
    assert_close(second, both[1:], scale=5.0)


def test_guidance_of_one_is_no_guidance(pipeline):
    latents = jr.normal(jr.key(3), (2, 8, 8, 4))
    nearly = _sample(pipeline, latents=latents, guidance_scale=1.0 + 1e-7)
    off = _sample(pipeline, latents=latents, guidance_scale=1.0)
    zero = _sample(pipeline, latents=latents, guidance_scale=0)
    np.testing.assert_array_equal(off, zero)
    assert_close(off, nearly, scale=5.0)


def test_eta_draws_noise_from_the_key(pipeline):
    latents = jr.normal(jr.key(3), (2, 8, 8, 4))
    one = _sample(pipeline, latents=latents, eta=1.0, key=jr.key(1))
    two = _sample(pipeline, latents=latents, eta=1.0, key=jr.key(2))
    assert float(jnp.abs(one - two).max()) > 1e-4


def test_images_drawn_a_few_at_a_time_are_the_same(pipeline):
    prompts, told = ["cat", "do", "cat do"], []
    sampling = with_options(_SAMPLING, eta=1.0)
    draw = ft.partial(draftx.sample, pipeline, prompts, sampling, key=jr.key(1))
    images = draw(images_at_once=np.int32(2), tell=lambda *counts: told.append(counts))
    assert_close(images, draw(), scale=5.0)
    assert told == [(0, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "2"])
def test_images_at_once_is_a_whole_number(pipeline, without_types, given):
    with pytest.raises(ValueError, match="`images_at_once` must be a whole number"):
        draftx.sample(pipeline, ["cat"], _SAMPLING, images_at_once=given)


def test_rows_that_are_not_finite_are_counted_over_all_images(pipeline):
    latents = jr.normal(jr.key(3), (3, 8, 8, 4)).at[2].set(jnp.nan)
    with pytest.raises(ValueError, match=r"rows \[2\] of 3 are not"):
        draftx.sample(
            pipeline, ["cat"] * 3, _SAMPLING, latents=latents, images_at_once=2
        )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(prompts=[]), "`prompts` must hold at least one prompt"),
        (dict(prompts=["cat", 3]), "`prompts` must hold only strings; got 3"),
        (dict(num_inference_steps=1001), "got 1001"),
        (dict(latents=np.zeros((2, 4, 8, 8), "f")), "channels last"),
        (dict(latents=np.zeros((1, 8, 8, 4), "f")), "`latents` must have shape"),
        (dict(latents=np.zeros((2, 7, 8, 4), "f")), "divisible by 2"),
        (dict(latents=np.zeros((2, 8, 8, 4), int)), "floating point"),
    ],
)
def test_bad_input_is_named(pipeline, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _sample(pipeline, **kwargs)


def test_a_single_string_is_not_a_list(pipeline):
    with pytest.raises(ValueError, match="Put a single prompt into a list"):
        draftx.sample(pipeline, "cat")


def test_overlong_prompt_warns_and_draws(pipeline):
    with pytest.warns(UserWarning, match="this part is lost: 'do do'"):
        _sample(pipeline, ["cat " * 7 + "do do"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _sample(pipeline, ["cat"])


def test_an_adapter_that_is_never_on_is_the_base_model(pipeline):
    adapted = random_lora(pipeline, targets=("attn2.to_v",), scale=0.3)
    off = _sample(adapted, lora_schedule=draftx.LoRAWindow(last=0))
    base = _sample(draftx.scale_lora(adapted, 0))
    np.testing.assert_allclose(off, base, atol=1e-5)
    assert np.abs(_sample(adapted) - base).max() > 1e-3


def test_schedule_without_an_adapter_is_named(pipeline):
    with pytest.raises(ValueError, match="`lora_schedule` must be None"):
        _sample(pipeline, lora_schedule=draftx.AnnealedGuidance())
