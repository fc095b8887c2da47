"""A step that goes from a noise level to the same one teaches nothing, and is named."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import (
    Ancestral,
    DDIM,
    Euler,
    find_idle_steps,
    noise_levels,
    SchedulerConfig,
)

from ...io.tiny import random_lora
from ...toys import toy_episode, toy_reward, ToyDenoiser, with_options


_SAMPLING = draftx.Sampling(num_inference_steps=3, guidance_scale=1.0)
# As scripts of 2022 wrote them, and as `linspace` ends whatever the offset.
_NO_OFFSET = SchedulerConfig(steps_offset=0)
_LINSPACE = SchedulerConfig(timestep_spacing="linspace")


@pytest.fixture(scope="module")
def pipeline(short_pipeline):
    return random_lora(short_pipeline, targets=("attn2.to_v",), scale=0.3)


def _gradient(pipeline, config, method, **options):
    sampling = with_options(_SAMPLING, sampler=DDIM(config), **options)
    return draftx.reward_gradient(
        pipeline, toy_reward, ["cat"], sampling, method=method, key=jr.key(4)
    )


@pytest.mark.parametrize("config", [_NO_OFFSET, _LINSPACE])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_last_step_is_idle(config, kind):
    config = dataclasses.replace(config, prediction_type=kind)
    for total in (1, 3, 50):
        sampler = DDIM(config)
        steps = sampler.steps(total, eta=0.0)
        assert find_idle_steps(sampler, steps) == {total - 1}
        assert find_idle_steps(sampler, steps, jumps=True) == frozenset()
        before, after = noise_levels(sampler, steps)
        np.testing.assert_allclose(before[-1], np.sqrt(0.00085), 1e-4)
        np.testing.assert_allclose(after[-1], before[-1], 1e-4)


@pytest.mark.parametrize("total", [1, 2, 50, 500])
@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(SchedulerConfig()),
        DDIM(SchedulerConfig(steps_offset=0, set_alpha_to_one=True)),
        DDIM(SchedulerConfig(timestep_spacing="trailing")),
        Ancestral(_NO_OFFSET),
        Ancestral(_LINSPACE, "fixed_large"),
        Euler(_NO_OFFSET),
        Euler(_LINSPACE),
    ],
)
def test_no_other_step_is(sampler, total):
    steps = sampler.steps(total, eta=0.0)
    assert find_idle_steps(sampler, steps) == frozenset()
    before, after = noise_levels(sampler, steps)
    assert np.all(np.diff(before) < 0)
    assert np.all(np.diff(after) < 0)
    assert np.all(after[:-1] > 0)


def test_a_chain_that_starts_beyond_the_schedule_has_an_idle_first_step():
    sampler = DDIM(SchedulerConfig())
    assert find_idle_steps(sampler, sampler.steps(1000, eta=0.0)) == {0}


def test_noise_levels_are_those_of_the_schedule():
    sampler = DDIM(SchedulerConfig())
    alpha_bar = np.sqrt(1 - sampler.config.alphas_cumprod())
    for eta in (0.0, 1.0):
        before, after = noise_levels(sampler, sampler.steps(4, eta=eta))
        np.testing.assert_allclose(before, alpha_bar[[751, 501, 251, 1]], 1e-5)
        np.testing.assert_allclose(after, alpha_bar[[501, 251, 1, 0]], 1e-5)


@pytest.mark.parametrize("config", [_NO_OFFSET, _LINSPACE])
@pytest.mark.parametrize(
    "method",
    [
        draftx.DRaFT(1),
        draftx.DRaFTLV(),
        draftx.SingleRewardLV(),
        draftx.AlignProp(max_steps=1),
        # One K in three is 1.
        draftx.AlignProp(),
        draftx.DRTune(num_trained_steps=1),
        draftx.Penalized(draftx.DRaFT(1)),
    ],
)
def test_training_an_idle_step_alone_is_an_error(pipeline, config, method):
    message = (
        "`method` must differentiate a step that can move the images.*step 2 of 0 to 2 "
        r"\(timestep 0\) goes from noise level 0\.0291. to 0\.0291..*set_alpha_to_one"
    )
    with pytest.raises(ValueError, match=message):
        _gradient(pipeline, config, method)


@pytest.mark.parametrize(
    ("total", "options", "advice"),
    [
        (3, {}, "such as `draftx.DRaFT(2)`."),
        (3, {"lora_schedule": draftx.LoRAWindow(last=2)}, "such as `draftx.DRaFT(2)`."),
        # There is no second step, or none with the adapter.
        (1, {}, None),
        (3, {"lora_schedule": draftx.LoRAWindow(last=1)}, None),
    ],
)
def test_a_method_that_is_advised_works(pipeline, total, options, advice):
    options = dict(options, num_inference_steps=total)
    method = draftx.DRaFT(1)
    with pytest.raises(ValueError, match="step that can move the images") as caught:
        _gradient(pipeline, _NO_OFFSET, method, **options)
    text = str(caught.value)
    assert ("DRaFT(" in text.partition("set_alpha_to_one")[2]) == (advice is not None)
    if advice is not None:
        assert text.endswith(advice)
        # It is a warning then: one of its two steps moves.
        with pytest.raises(UserWarning, match="1 of the 2 steps that `method`"):
            _gradient(pipeline, _NO_OFFSET, draftx.DRaFT(2), **options)


def test_finetune_says_so_before_it_begins(pipeline):
    def train(method, **options):
        return draftx.finetune(
            pipeline,
            toy_reward,
            ["cat"],
            with_options(_SAMPLING, sampler=DDIM(_NO_OFFSET), **options),
            method=method,
            key=jr.key(0),
            num_train_steps=1,
            batch_size=1,
            callbacks=(),
        )

    with pytest.raises(ValueError, match="step that can move the images"):
        train(draftx.DRaFTLV())
    # The adapter is on in the last step alone.
    with pytest.raises(ValueError, match="step that can move the images"):
        train(draftx.DRaFT(), lora_schedule=draftx.LoRAWindow(last=1))


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (draftx.DRaFT(2), 2),
        (draftx.AlignProp(min_steps=2), 3),
        (draftx.DRTune(num_trained_steps=2), 3),
        (draftx.Penalized(draftx.DRTune(num_trained_steps=2)), 3),
    ],
)
def test_an_idle_step_among_others_is_a_warning(pipeline, method, trained):
    # A warning is an error in tests: the gradient itself is not computed.
    message = f"1 of the {trained} steps that `method` differentiates move nothing"
    with pytest.raises(UserWarning, match=message):
        _gradient(pipeline, _NO_OFFSET, method)


def _norm(method, config, eta=0.0):
    def objective(weight):
        episode = toy_episode(
            ToyDenoiser(weight), sampler=DDIM(config), eta=eta, key=jr.key(1)
        )
        return method(episode, jr.key(0))[0]

    return float(jnp.linalg.norm(jax.grad(objective)(jnp.asarray([0.3, 0.5, -0.2]))))


@pytest.mark.parametrize("method", [draftx.DRaFT(1), draftx.DRaFTLV()])
def test_the_gradient_of_an_idle_step_is_rounding(method):
    assert _norm(method, _NO_OFFSET) < 1e-5 * _norm(method, SchedulerConfig())


@pytest.mark.parametrize(
    ("method", "eta"), [(draftx.ReFL(max_steps=1), 0.0), (draftx.ScoreFunction(), 1.0)]
)
def test_methods_that_an_idle_step_does_not_matter_to(method, eta):
    sampler = DDIM(_NO_OFFSET)
    for one in (method, draftx.Penalized(method)):
        assert not one.idle_steps(sampler, sampler.steps(3, eta=eta))
    assert _norm(method, _NO_OFFSET, eta) > 0.1 * _norm(method, SchedulerConfig(), eta)


def test_the_remedy_works(pipeline):
    with pytest.raises(ValueError, match="set_alpha_to_one") as error:
        _gradient(pipeline, _NO_OFFSET, draftx.DRaFT(1))
    code = re.search(r"`(draftx\.Sampling\(sampler=.*?)`, with", str(error.value))
    assert code is not None
    pipeline = eqx.tree_at(lambda p: p.sampler, pipeline, DDIM(_NO_OFFSET))
    names = dict(draftx=draftx, dataclasses=dataclasses, pipeline=pipeline)
    sampler = eval(code.group(1), names).sampler
    assert not find_idle_steps(sampler, sampler.steps(3, eta=0.0))
