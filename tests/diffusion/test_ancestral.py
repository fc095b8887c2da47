"""Ancestral sampling against diffusers' DDPM, and against DDIM where they are one."""

import itertools
from unittest import mock

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import Ancestral, DDIM, random_steps

from ..goldens import make_scheduler
from ..goldens.make_scheduler import PREDICTIONS, SPACINGS, VARIANCES
from ..helpers import assert_close, relative_error
from ..toys import config, finals, golden


def _sampler(variance_type="fixed_small", **changes):
    return Ancestral(config(**changes), variance_type)


def _finals(cases, latents, noise):
    """What the chain of each case ends with."""
    cases = [dict(case) for case in cases]
    lengths = [case.pop("num_inference_steps") for case in cases]
    return finals([_sampler(**case) for case in cases], lengths, latents, noise)


def test_whole_chains_end_where_those_of_diffusers_end():
    cases = golden()["ancestral_cases"]
    ends = _finals(cases, *make_scheduler.inputs())
    expected = golden()["ancestral_final"]
    for case, final, theirs in zip(cases, ends, expected, strict=True):
        error = relative_error(final, theirs)
        assert error < 1e-5, f"{case}: {error:.1e}"


def test_timesteps_are_those_of_diffusers():
    rest = golden()["ancestral_timesteps"]
    for case in golden()["ancestral_cases"]:
        case = dict(case)
        num_steps = case.pop("num_inference_steps")
        expected, rest = np.split(rest, [num_steps])
        actual = _sampler(**case).steps(num_steps, 0.0).timestep
        assert actual.dtype == jnp.int32
        np.testing.assert_array_equal(actual, expected, err_msg=str(case))
    assert rest.size == 0


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variance_type", VARIANCES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_step_is_that_of_diffusers_live(spacing, variance_type):
    torch = pytest.importorskip("torch")
    changes = dict(timestep_spacing=spacing, variance_type=variance_type)
    changes |= dict(clip_sample=True, clip_sample_range=0.8)
    rng = np.random.default_rng(0)
    double = lambda x: torch.as_tensor(np.asarray(x), dtype=torch.float64)
    for num_steps, prediction_type in itertools.product((2, 30, 61, 333), PREDICTIONS):
        case = changes | dict(prediction_type=prediction_type)
        ours = _sampler(**case)
        theirs = make_scheduler.scheduler(case, "DDPMScheduler")
        theirs.set_timesteps(num_steps)
        steps = ours.steps(num_steps, 0.0)
        for i in {0, 1, num_steps // 2, num_steps - 1}:
            x, prediction, z = rng.normal(size=(3, 1, 2, 1, 3)).astype(np.float32)
            step = steps[i]
            args = (jnp.asarray(x), jnp.asarray(prediction), step)
            actual = ours.update(*args)[0] + step.noise_scale * z
            given = lambda *_, z=z, **__: double(z)
            with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", given):
                out = theirs.step(double(prediction), int(step.timestep), double(x))
            # In float32 diffusers subtracts from 1 what is close to it.
            assert relative_error(actual, out.prev_sample.numpy()) < 1e-4, (case, i)
            assert_close(
                np.asarray(ours.predict(*args)[0]),
                out.pred_original_sample.numpy().astype(np.float32),
                scale=10.0,
            )


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_the_smaller_variance_is_ddim_with_eta_of_one(prediction_type):
    # Where strides are equal: with others, diffusers' DDIM, which ours is, goes from
    # one timestep as if to another than the next.
    of = config(prediction_type=prediction_type, set_alpha_to_one=True, steps_offset=0)
    inputs = make_scheduler.inputs()
    (ancestral,) = finals([Ancestral(of)], [50], *inputs)
    (ddim,) = finals([DDIM(of)], [50], *inputs, eta=[1.0])
    assert relative_error(ancestral, ddim) < 1e-5


def test_as_many_steps_as_there_are_with_an_offset():
    # The step from beyond the end to the end is one that changes nothing.
    for variance_type in VARIANCES:
        steps = _sampler(variance_type).steps(1000, 0.0)
        np.testing.assert_array_equal(steps.timestep[:3], [999, 999, 998])
        numbers = [steps.of_clean, steps.of_latents, steps.noise_scale]
        assert [float(x[0]) for x in numbers] == [0, 1, 0]


@pytest.mark.parametrize(
    ("variance_type", "offset", "last_is_random"),
    [
        ("fixed_small", 0, False),
        ("fixed_small", 1, False),
        ("fixed_large", 0, False),
        ("fixed_large", 1, True),
    ],
)
def test_steps_that_add_noise(variance_type, offset, last_is_random):
    sampler = _sampler(variance_type, steps_offset=offset)
    expected = np.arange(5 if last_is_random else 4)
    np.testing.assert_array_equal(random_steps(sampler, 5, 0.0), expected)
    assert sampler.is_random(0.0)
    assert not sampler.takes_eta


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_noised_latents_mean_what_they_were_made_of(prediction_type, getkey):
    sampler = _sampler(prediction_type=prediction_type)
    x0, noise = jr.normal(getkey(), (2, 2, 3, 3, 4))
    step = sampler.steps(10, 0.0)[4]
    latents = sampler.add_noise(x0, noise, step)
    velocity = step.signal * noise - step.sigma * x0
    prediction = dict(epsilon=noise, sample=x0, v_prediction=velocity)[prediction_type]
    assert_close(sampler.predict(latents, prediction, step), (x0, noise), scale=3.0)


def test_what_is_not_implemented_is_refused():
    text = r"`variance_type` must be one of \['fixed_small', .*; got 'learned'"
    with pytest.raises(ValueError, match=text):
        _sampler("learned")


@pytest.mark.parametrize("num_steps", [0, 1001, -1])
def test_number_of_steps_error_text(num_steps):
    text = rf"`num_inference_steps` must lie in \[1, 1000\]; got {num_steps}"
    with pytest.raises(ValueError, match=text):
        _sampler().steps(num_steps, 0.0)
