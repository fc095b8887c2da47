"""The sampler against diffusers' DDIM, and where it is better than that."""

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import DDIM, SchedulerConfig

from ..goldens import make_scheduler
from ..goldens.make_scheduler import SCHEDULES, SD14, THINNED
from ..helpers import assert_close, relative_error
from ..toys import config, finals, golden


def _sampler(**changes):
    return DDIM(config(**changes))


def _finals(cases, latents, noise):
    """What the chain of each case ends with."""
    cases = [dict(case) for case in cases]
    lengths = [case.pop("num_inference_steps") for case in cases]
    eta = [case.pop("eta") for case in cases]
    samplers = [_sampler(**case) for case in cases]
    return finals(samplers, lengths, latents, noise, eta=eta)


def _timesteps(sampler, num_steps):
    return np.asarray(sampler.steps(num_steps, 0.0).timestep)


def test_whole_chains_end_where_those_of_diffusers_end():
    cases = golden()["ddim_cases"]
    ends = _finals(cases, *make_scheduler.inputs())
    for case, final, expected in zip(cases, ends, golden()["ddim_final"], strict=True):
        # The golden was computed in float64; rounding adds up over a thousand steps.
        limit = 1e-5 if case["num_inference_steps"] <= 50 else 3e-5
        error = relative_error(final, expected)
        assert error < limit, f"{case}: {error:.1e}"


def test_timesteps_are_those_of_diffusers():
    rest = golden()["ddim_timesteps"]
    for case in golden()["ddim_cases"]:
        num_steps = case["num_inference_steps"]
        actual = _timesteps(_sampler(**case), num_steps)
        assert actual.dtype == np.int32
        expected, rest = np.split(rest, [num_steps])
        np.testing.assert_array_equal(actual, expected, err_msg=str(case))
    assert rest.size == 0


@pytest.mark.parametrize("name", ["sd14", *SCHEDULES])
def test_tables_are_those_of_diffusers(name):
    changes = SCHEDULES.get(name, {})
    length = dict(num_train_timesteps=50) if name == "trained" else {}
    alphas = _sampler(**changes, **length).config.alphas_cumprod()
    assert alphas.dtype == np.float32
    # diffusers multiplies a thousand times in float32.
    np.testing.assert_allclose(alphas[::THINNED], golden()[f"alphas_{name}"], rtol=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_missing_fields_mean_what_they_mean_to_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for name in ("PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"):
        ours = SchedulerConfig.from_dict({"_class_name": name}).to_dict()
        theirs = diffusers.DDIMScheduler.from_config({"_class_name": name}).config
        # Latents are not clipped unless a file says so; see `from_dict`.
        for field in ours.keys() - {"_class_name", "clip_sample"}:
            assert ours[field] == theirs[field], field
        again = diffusers.DDIMScheduler.from_config(ours).config
        assert {field: again[field] for field in ours.keys() - {"_class_name"}} == {
            field: value for field, value in ours.items() if field != "_class_name"
        }


def test_as_many_steps_as_there_are_with_an_offset():
    # diffusers asks its table for the thousand-first entry and fails. The step from
    # beyond the end to the end is one that changes nothing.
    steps = _sampler().steps(1000, 0.0)
    np.testing.assert_array_equal(steps.timestep[:3], [999, 999, 998])
    assert steps.prev_alpha[0] == steps.alpha[0] == steps.alpha[1]
    np.testing.assert_array_equal(steps.prev_alpha[1:-1], steps.alpha[2:])
    assert steps.noise_scale[0] == 0


def test_published_file_is_the_default():
    config = SchedulerConfig.from_dict(SD14)
    assert config == SchedulerConfig()
    assert SchedulerConfig.from_dict(config.to_dict()) == config
    np.testing.assert_array_equal(_timesteps(_sampler(), 50)[[0, 1, -1]], [981, 961, 1])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("num_train_timesteps", [1000, None]),
        ("beta_start", [0.00085, [0.00085]]),
        ("beta_end", [0.012]),
        ("beta_schedule", ["scaled_linear"]),
        ("trained_betas", [None]),
        ("clip_sample", [False, None]),
        ("clip_sample_range", [1.0, None]),
        ("set_alpha_to_one", [False, None]),
        ("steps_offset", [1, [1]]),
        ("prediction_type", ["epsilon", None]),
        ("thresholding", [False, None]),
        ("dynamic_thresholding_ratio", [0.995, None]),
        ("sample_max_value", [1.0, None]),
        ("timestep_spacing", ["leading", None]),
        ("rescale_betas_zero_snr", [False, None]),
        # Of other schedulers.
        ("timestep_type", ["discrete", None]),
        ("use_flow_sigmas", [False, None]),
        ("skip_prk_steps", [True, None]),
        ("use_karras_sigmas", [True, None]),
    ],
)
def test_other_words_for_the_same_are_read(field, values):
    for value in values:
        read = SchedulerConfig.from_dict(SD14 | {field: value})
        assert read == SchedulerConfig(), value


def test_a_switch_at_null_is_off():
    # A file without the switch has it on.
    assert SchedulerConfig.from_dict({}).set_alpha_to_one
    assert not SchedulerConfig.from_dict({"set_alpha_to_one": None}).set_alpha_to_one


@pytest.mark.parametrize("prediction_type", make_scheduler.PREDICTIONS)
def test_prediction_types_agree_on_what_they_mean(prediction_type, getkey):
    sampler = _sampler(prediction_type=prediction_type)
    x0, noise = jr.normal(getkey(), (2, 2, 3, 3, 4))
    step = sampler.steps(10, 0.0)[4]
    latents = sampler.add_noise(x0, noise, step)
    velocity = jnp.sqrt(step.alpha) * noise - jnp.sqrt(1 - step.alpha) * x0
    prediction = dict(epsilon=noise, sample=x0, v_prediction=velocity)[prediction_type]
    assert_close(sampler.predict(latents, prediction, step), (x0, noise), scale=3.0)


def test_noise_of_a_step_is_taken_from_its_mean(getkey):
    sampler = _sampler()
    latents, prediction = jr.normal(getkey(), (2, 1, 2, 3, 4))
    quiet, noisy = sampler.steps(10, 0.0)[3], sampler.steps(10, eta=1.0)[3]
    assert (quiet.noise_scale == 0) & (noisy.noise_scale > 0)
    means = [sampler.update(latents, prediction, s)[0] for s in (quiet, noisy)]
    x0, noise = sampler.predict(latents, prediction, quiet)
    rest = [jnp.sqrt(1 - quiet.prev_alpha - s.noise_scale**2) for s in (quiet, noisy)]
    expected = [jnp.sqrt(quiet.prev_alpha) * x0 + r * noise for r in rest]
    assert_close(means, expected)
    assert not sampler.is_random(0.0)
    assert sampler.is_random(0.5)


def test_ancestral_chain_keeps_the_variance(getkey):
    # Of unit Gaussians the perfect prediction is known: sqrt(1 - alpha) times itself.
    # A step of finite length loses a little variance, hence the many.
    sampler = _sampler()
    steps = sampler.steps(250, eta=1.0)
    latents = jr.normal(getkey(), (1, 100, 100, 1))

    @jax.jit
    def run(latents, key):
        def body(x, row):
            step, key = row
            noise = jr.normal(key, x.shape)
            mean, _ = sampler.update(x, jnp.sqrt(1 - step.alpha) * x, step)
            return mean + step.noise_scale * noise, None

        return lax.scan(body, latents, (steps, jr.split(key, 250)))[0]

    assert abs(float(jnp.std(run(latents, getkey()))) - 1) < 0.03


@pytest.mark.parametrize("num_steps", [0, 1001, -1])
def test_number_of_steps_error_text(num_steps):
    text = rf"`num_inference_steps` must lie in \[1, 1000\]; got {num_steps}"
    with pytest.raises(ValueError, match=text):
        _sampler().steps(num_steps, 0.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(beta_schedule="sigmoid"), "`beta_schedule` .* got 'sigmoid'"),
        (dict(prediction_type="flow"), "`prediction_type` .* got 'flow'"),
        (dict(timestep_spacing="karras"), "`timestep_spacing` .* got 'karras'"),
        (dict(thresholding=True), "`thresholding` .* must be False; got True"),
        (dict(timestep_type="continuous"), "`timestep_type` .* got 'continuous'"),
        (dict(use_flow_sigmas=True), "`use_flow_sigmas` .* must be False; got True"),
    ],
)
def test_what_is_not_implemented_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        _sampler(**changes)
