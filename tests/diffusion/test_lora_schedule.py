"""Tuned and base model by turns, and mixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.diffusion import (
    AnnealedGuidance,
    Chain,
    DDIM,
    LoRAWindow,
    run_truncated,
    SchedulerConfig,
)

from ..toys import ToyDenoiser


_SAMPLER = DDIM(SchedulerConfig())
_TOTAL = 5
_STEPS = _SAMPLER.steps(_TOTAL, 0.0)


_BASE = ToyDenoiser(jnp.asarray([0.1, 0.4, 0.2]))
_LATENTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 2, 3)), jnp.float32)


def _run(schedule, k, weight):
    denoiser = schedule(ToyDenoiser(weight), _BASE, _TOTAL)
    out = run_truncated(Chain(_SAMPLER, denoiser, _STEPS), _LATENTS, k).latents
    return jnp.sum(out**2), out


def _written_out(shares, weight):
    latents = _LATENTS
    for i, share in enumerate(shares):
        tuned = ToyDenoiser(weight)(latents, i)
        mixed = (1 - share) * _BASE(latents, i) + share * tuned
        latents, _ = _SAMPLER.update(latents, mixed, _STEPS[i])
    return jnp.sum(latents**2), latents


def _both(function, *args):
    weight = jnp.asarray([0.3, 0.5, -0.2])
    run = jax.jit(jax.value_and_grad(lambda w: function(*args, w), has_aux=True))
    (_, latents), gradient = run(weight)
    return latents, gradient


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (LoRAWindow(first=2), [1, 1, 0, 0, 0]),
        (LoRAWindow(last=2), [0, 0, 0, 1, 1]),
        (LoRAWindow(first=_TOTAL), [1] * 5),
        (LoRAWindow(last=_TOTAL), [1] * 5),
        (LoRAWindow(last=0), [0] * 5),
        (AnnealedGuidance(), [0, 0.2, 0.4, 0.6, 0.8]),
        (AnnealedGuidance(power=2), [0, 0.04, 0.16, 0.36, 0.64]),
        (AnnealedGuidance(power=0), [1] * 5),
    ],
)
def test_chain_and_gradient_are_those_written_out(schedule, shares):
    actual, expected = _both(_run, schedule, None), _both(_written_out, shares)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_steps_that_ask_the_tuned_model():
    schedules = LoRAWindow(first=2), LoRAWindow(last=2), AnnealedGuidance()
    active = [schedule.active_steps(_TOTAL) for schedule in schedules]
    assert active == [{0, 1}, {3, 4}, {1, 2, 3, 4}]
    assert AnnealedGuidance(power=0).active_steps(_TOTAL) == set(range(_TOTAL))


def test_a_step_asks_one_model_only():
    jaxpr = str(jax.make_jaxpr(lambda w: _run(LoRAWindow(last=2), 0, w))(_BASE.weight))
    assert jaxpr.count("cond[") == 1
    assert jaxpr.count("tanh") == 2  # One in each branch.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LoRAWindow(), "either `first` or `last`.*first=None, last=None"),
        (lambda: LoRAWindow(first=1, last=1), "either `first` or `last`"),
        (lambda: LoRAWindow(first=-1), "at least 0; got first=-1"),
        (lambda: LoRAWindow(first=6).check(5), "`first` must be at most 5.*got 6"),
        (lambda: LoRAWindow(last=6).check(5), "`last` must be at most 5.*got 6"),
        (lambda: AnnealedGuidance(power=-1), "`power` must be finite"),
    ],
)
def test_impossible_numbers_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
