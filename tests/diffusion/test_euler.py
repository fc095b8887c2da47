"""Euler's method against diffusers', whose latents have no unit variance."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import DDIM, Euler

from ..goldens import make_scheduler
from ..goldens.make_scheduler import PREDICTIONS, SPACINGS
from ..helpers import assert_close, relative_error
from ..toys import config, finals, golden


def _sampler(**changes):
    return Euler(config(**changes))


def test_whole_chains_end_where_those_of_diffusers_end():
    cases = [dict(case) for case in golden()["euler_cases"]]
    lengths = [case.pop("num_inference_steps") for case in cases]
    samplers = [_sampler(**case) for case in cases]
    ends = finals(samplers, lengths, *make_scheduler.inputs())
    expected = golden()["euler_final"]
    for case, length, final, theirs in zip(cases, lengths, ends, expected, strict=True):
        error = relative_error(final, theirs)
        assert error < 1e-5, f"{case}, {length}: {error:.1e}"


def test_timesteps_are_those_of_diffusers():
    rest = golden()["euler_timesteps"]
    for case in golden()["euler_cases"]:
        case = dict(case)
        num_steps = case.pop("num_inference_steps")
        expected, rest = np.split(rest, [num_steps])
        actual = _sampler(**case).steps(num_steps, 0.0).timestep
        np.testing.assert_array_equal(actual, expected, err_msg=str(case))
    assert rest.size == 0


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_model_sees_what_it_sees_with_diffusers_live(spacing, offset):
    torch = pytest.importorskip("torch")
    changes = dict(timestep_spacing=spacing, steps_offset=offset)
    rng = np.random.default_rng(0)
    for num_steps in (1, 2, 10, 61, 333, 1000):
        theirs = make_scheduler.scheduler(changes, "EulerDiscreteScheduler")
        theirs.set_timesteps(num_steps)
        ours = _sampler(**changes)
        steps = ours.steps(num_steps, 0.0)
        # It visits a timestep -1 after 61 steps; see the same of DDIM.
        timesteps = theirs.timesteps[:num_steps]
        np.testing.assert_array_equal(steps.timestep, timesteps.numpy())
        sigmas = theirs.sigmas.numpy()[:num_steps]
        np.testing.assert_allclose(steps.sigma / steps.signal, sigmas, rtol=1e-5)
        draw = lambda: jnp.asarray(rng.normal(size=(1, 2, 1, 3)), jnp.float32)
        tensor = lambda x: torch.as_tensor(np.array(x))
        first = draw()
        x = tensor(first) * theirs.init_noise_sigma
        seen = theirs.scale_model_input(x, timesteps[0])
        assert relative_error(ours.start(first, steps), seen) < 1e-5
        for i in {0, num_steps // 2, num_steps - 1}:
            clean, noise = draw(), draw()
            noised = ours.add_noise(clean, noise, steps[i])
            one = theirs.add_noise(tensor(clean), tensor(noise), timesteps[i][None])
            expected = one / (theirs.sigmas[i] ** 2 + 1) ** 0.5
            if i > 0 or timesteps[0] != timesteps[:2][-1]:
                assert relative_error(noised, expected) < 1e-5


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_noised_latents_mean_what_they_were_made_of(prediction_type, getkey):
    sampler = _sampler(prediction_type=prediction_type, timestep_spacing="linspace")
    x0, noise = jr.normal(getkey(), (2, 2, 3, 3, 4))
    step = sampler.steps(10, 0.0)[4]
    latents = sampler.add_noise(x0, noise, step)
    velocity = step.signal * noise - step.sigma * x0
    prediction = dict(epsilon=noise, sample=x0, v_prediction=velocity)[prediction_type]
    assert_close(sampler.predict(latents, prediction, step), (x0, noise), scale=3.0)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_where_timesteps_are_whole_it_is_ddim_without_noise(spacing):
    # With as many steps as there are, neither rounds. Both end without noise.
    of = config(timestep_spacing=spacing, set_alpha_to_one=True, steps_offset=0)
    inputs = make_scheduler.inputs()
    latents = inputs[0]
    (euler,) = finals([Euler(of)], [1000], *inputs)
    if spacing != "leading":
        latents = np.float32(np.sqrt(1 - of.alphas_cumprod()[-1])) * latents
    (ddim,) = finals([DDIM(of)], [1000], latents, inputs[1])
    assert relative_error(euler, ddim) < 3e-5


@pytest.mark.parametrize("num_steps", [1, 7, 1000])
def test_latents_keep_unit_variance_and_end_without_noise(num_steps):
    sampler = _sampler(timestep_spacing="linspace")
    steps = sampler.steps(num_steps, 0.0)
    np.testing.assert_allclose(steps.signal**2 + steps.sigma**2, 1, rtol=1e-6)
    np.testing.assert_array_equal(steps.prev_signal[:-1], steps.signal[1:])
    np.testing.assert_array_equal(steps.prev_sigma[:-1], steps.sigma[1:])
    assert (float(steps.prev_signal[-1]), float(steps.prev_sigma[-1])) == (1, 0)
    assert not np.any(steps.noise_scale)
    assert not sampler.is_random(0.0)
    assert not sampler.takes_eta


@pytest.mark.parametrize("num_steps", [0, 1001, -1])
def test_number_of_steps_error_text(num_steps):
    text = rf"`num_inference_steps` must lie in \[1, 1000\]; got {num_steps}"
    with pytest.raises(ValueError, match=text):
        _sampler().steps(num_steps, 0.0)
