"""What is trained, and what that asks of a method and of the sampling's options."""

import jax.random as jr
import numpy as np
import pytest

import draftx

from ...io.tiny import random_lora
from ...toys import toy_reward, with_options


_PROMPTS = ["cat", "do"]
_SAMPLING = draftx.Sampling(num_inference_steps=3, guidance_scale=2.0)


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return random_lora(short_pipeline, targets=("attn2.to_v",), scale=0.3)


@pytest.fixture(scope="module")
def learned(pipeline):
    """Three steps' worth, the adapter kept."""
    return draftx.add_learned_inputs(pipeline, _SAMPLING)


def _gradient(pipeline, method, **options):
    sampling = with_options(_SAMPLING, **options)
    return draftx.reward_gradient(
        pipeline, toy_reward, _PROMPTS, sampling, method=method, key=jr.key(4)
    )


def test_training_sees_the_schedule_and_the_base_model(pipeline):
    method = draftx.Penalized(draftx.DRaFT(), weight=0.5)
    options = dict(lora_schedule=draftx.AnnealedGuidance(), guidance_scale=1)
    rewards, gradient = _gradient(pipeline, method, **options)
    # The starting noise is drawn alike.
    sampling = with_options(_SAMPLING, **options)
    images = draftx.sample(pipeline, _PROMPTS, sampling, key=jr.key(4))
    np.testing.assert_allclose(rewards, toy_reward(images), 1e-4)
    state = draftx.lora_state_dict(gradient)
    assert all(np.any(np.asarray(x) != 0) for x in state.values())


@pytest.mark.parametrize(
    ("method", "kwargs", "message"),
    [
        (draftx.DRaFT(1), {}, "`method` must differentiate every step.*DRaFT"),
        (draftx.DRaFTLV(), {}, "`method` must differentiate every step"),
        (draftx.AlignProp(), {}, "`method` must differentiate every step"),
        (draftx.DRaFT(), dict(guidance_scale=1), "`guidance_scale` must be above 1"),
        (draftx.DRaFT(), dict(eta=2.0), r"`eta` must lie in \[0, 1\]"),
    ],
)
def test_what_learned_inputs_need_is_named(learned, method, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _gradient(learned, method, **kwargs)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (draftx.LoRAWindow(first=1), "in a step that `method` differentiates"),
        (draftx.LoRAWindow(last=0), "in a step that `method` differentiates"),
        (draftx.LoRAWindow(last=4), "`last` must be at most 3"),
    ],
)
def test_windows_that_train_nothing_are_named(pipeline, schedule, message):
    with pytest.raises(ValueError, match=message):
        _gradient(pipeline, draftx.DRaFT(2), lora_schedule=schedule)
