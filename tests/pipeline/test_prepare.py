"""From options and a table to arrays: sizes, negative prompts, extra channels."""

import dataclasses

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx import Table
from draftx.episodes import make_task
from draftx.models import AutoencoderKL, CLIPTextModel, UNet2DConditionModel
from draftx.pipeline import condition, latent_shape

from ..helpers import assert_close
from ..io.tiny import random_model, text_config, UNET, VAE
from ..toys import toy_reward, with_options


_SAMPLING = draftx.Sampling(2, 2.0)
_PROMPTS = ["cat", "do"]


@pytest.fixture(scope="module")
def pipeline(base_pipeline):
    return draftx.add_lora(base_pipeline, rank=2, targets=["proj_out"], key=jr.key(0))


@pytest.fixture(scope="module")
def seeing(base_pipeline):
    """Its UNet sees four more channels beside the latents."""
    rng = np.random.default_rng(0)
    tokenizer = base_pipeline.tokenizer
    config = dataclasses.replace(UNET, in_channels=8)
    return draftx.Pipeline(
        random_model(UNet2DConditionModel, config, rng),
        random_model(AutoencoderKL, VAE, rng),
        random_model(CLIPTextModel, text_config(tokenizer), rng),
        base_pipeline.sampler,
        tokenizer,
    )


def _sample(pipeline, prompts=_PROMPTS, *, latents=None, **options):
    sampling = with_options(_SAMPLING, **options)
    return draftx.sample(pipeline, prompts, sampling, latents=latents)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(), (8, 8, 4)),
        (dict(height=16, width=16), (8, 8, 4)),
        (dict(height=24), (12, 8, 4)),
        (dict(height=12, width=20), (6, 10, 4)),
    ],
)
def test_a_size_in_pixels_is_one_of_latents(pipeline, options, expected):
    assert latent_shape(pipeline, draftx.Sampling(**options)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(height=18), "`height` must be a multiple of 4 pixels.*got 18. Use 16"),
        (dict(width=23), "`width` must be a multiple of 4 pixels.*got 23. Use 24"),
        (dict(width=1), "`width` must be a multiple of 4 pixels.*got 1. Use 4"),
    ],
)
def test_a_size_that_cannot_be_halved_is_named(pipeline, options, message):
    with pytest.raises(ValueError, match=message):
        _sample(pipeline, **options)


def test_images_of_another_size(pipeline):
    images = _sample(pipeline, height=12, width=20)
    assert images.shape == (2, 12, 20, 3)
    latents = jr.normal(jr.split(jr.key(0))[0], (2, 6, 10, 4))
    # The size may be said by latents alone, or by both alike.
    assert_close(_sample(pipeline, latents=latents), images)
    assert_close(_sample(pipeline, latents=latents, height=12), images)
    for name, value in (("height", 16), ("width", 16)):
        with pytest.raises(ValueError, match=f"the size that `{name}` says, 8 for 16"):
            _sample(pipeline, latents=latents, **{name: value})


# As little as possible to compile.
_WIDE = draftx.Sampling(1, 1.0, height=12, width=20)
_LITTLE = draftx.Memory("none")


def _wide(images):
    assert images.shape[1:] == (12, 20, 3)
    return toy_reward(images)


def test_gradients_and_trainings_of_another_size(short_pipeline):
    pipeline = draftx.add_lora(
        short_pipeline, rank=2, targets=["attn2.to_v"], key=jr.key(0)
    )
    method = draftx.DRaFT(1)
    rewards, _ = draftx.reward_gradient(
        pipeline, _wide, _PROMPTS, _WIDE, method=method, memory=_LITTLE
    )
    assert_close(rewards, toy_reward(draftx.sample(pipeline, _PROMPTS, _WIDE)))
    options = dict(
        key=jr.key(0), num_train_steps=1, batch_size=2, memory=_LITTLE, callbacks=()
    )
    evaluation = draftx.Evaluation(_PROMPTS, {"it": _wide}, _WIDE, num_samples=1)
    result = draftx.finetune(
        pipeline,
        _wide,
        _PROMPTS,
        _WIDE,
        method=method,
        evaluation=evaluation,
        **options,
    )
    assert "held_out/it" in result.history[0]
    result = draftx.finetune_in_rounds(
        pipeline, _wide, _PROMPTS, _WIDE, method=draftx.DDPO(), **options
    )
    assert result.history[0]["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("search", "options"),
    [
        (draftx.search.best_of_n, dict(n=2)),
        (draftx.search.prompt_engineering, dict(templates=["{}"])),
        (draftx.search.doodl, dict(num_steps=1)),
        (draftx.search.svdd, dict(num_candidates=2)),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_searches_of_another_size(pipeline, search, options):
    sampling = _WIDE
    if search is draftx.search.svdd:
        sampling = with_options(_WIDE, eta=1.0)
    result = search(pipeline, _wide, ["cat"], sampling, **options)
    assert result.images.shape == (1, 12, 20, 3)
    assert result.latents.shape == (1, 6, 10, 4)
    if search is draftx.search.doodl:
        norm = jnp.linalg.norm(result.latents)
        np.testing.assert_allclose(norm, (6 * 10 * 4) ** 0.5, rtol=1e-4)


def test_one_negative_prompt_for_all_or_one_for_each(short_pipeline):
    latents = jr.normal(jr.key(1), (2, 8, 8, 4))
    both = {"prompt": _PROMPTS, "negative_prompt": ["do", "cat cat"]}
    images = _sample(short_pipeline, both, latents=latents)
    plain = _sample(short_pipeline, latents=latents)
    for i, negative in enumerate(both["negative_prompt"]):
        alone = _sample(
            short_pipeline,
            _PROMPTS[i : i + 1],
            latents=latents[i : i + 1],
            negative_prompt=negative,
        )
        assert_close(alone, images[i : i + 1], scale=5.0)
        assert jnp.abs(images[i] - plain[i]).max() > 1e-4
    with pytest.raises(ValueError, match="got both, the option 'a'"):
        _sample(short_pipeline, both, negative_prompt="a")


def test_a_unet_that_sees_an_image_besides(seeing):
    assert seeing.latent_shape == (8, 8, 4)
    assert seeing.conditioning_channels == 4
    assert latent_shape(seeing, draftx.Sampling(height=24)) == (12, 8, 4)
    rng = np.random.default_rng(0)
    conditioning = rng.normal(size=(2, 8, 8, 4)).astype("f")
    rows = {"prompt": _PROMPTS, "conditioning": conditioning}
    images = _sample(seeing, rows)
    assert images.shape == (2, 16, 16, 3)
    # Each image sees its own row's.
    swapped = rows | {"conditioning": conditioning[::-1]}
    assert jnp.abs(_sample(seeing, swapped) - images).max() > 1e-3
    changed = conditioning.copy()
    changed[1] += 1
    other = _sample(seeing, rows | {"conditioning": changed})
    assert_close(other[0], images[0], scale=5.0)
    assert jnp.abs(other[1] - images[1]).max() > 1e-3
    unguided = _sample(seeing, rows, guidance_scale=1)
    assert unguided.shape == images.shape
    with pytest.raises(ValueError, match=r"a column 'conditioning'.*; got None and"):
        _sample(seeing)
    with pytest.raises(ValueError, match=r"= \(2, 8, 12, 4\).*got \(2, 8, 8, 4\)"):
        _sample(seeing, rows, width=24)


def test_a_unet_that_sees_an_image_besides_is_trained(seeing):
    adapted = draftx.add_lora(seeing, rank=2, targets=["proj_out"], key=jr.key(0))
    conditioning = np.ones((2, 8, 8, 4), np.float32)
    rows = {"prompt": _PROMPTS, "conditioning": conditioning}
    plain = draftx.Sampling(1, 1.0)
    rewards, gradient = draftx.reward_gradient(
        adapted, toy_reward, rows, plain, method=draftx.DRaFT(1), memory=_LITTLE
    )
    assert_close(rewards, toy_reward(draftx.sample(adapted, rows, plain)))
    state = draftx.lora_state_dict(gradient)
    assert any(np.any(np.asarray(x) != 0) for x in state.values())


def test_the_column_has_the_size_of_the_latents_that_are_given(seeing):
    shape = (2, 12, 8, 4)
    rows = {"prompt": _PROMPTS, "conditioning": np.zeros(shape, np.float32)}
    table = draftx.Table.of(rows)
    task = make_task(seeing, toy_reward, table, _SAMPLING, shape=shape)
    assert task.conditioning.channels.shape == shape


def test_a_column_that_is_not_asked_for_is_named(pipeline):
    rows = {"prompt": ["cat"], "negative_prompt": ["do"]}
    with pytest.warns(UserWarning, match="'negative_prompt' has no effect"):
        condition(pipeline, Table.of(rows), draftx.Sampling(2, 0.5), (1, 8, 8, 4))
