"""The sampler against diffusers' DDIM, and where it is better than that."""

import functools as ft
import json
import pathlib

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import DDIM, SchedulerConfig

from ..goldens import make_scheduler
from ..goldens.make_scheduler import SCHEDULES, SD14, SPACINGS, THINNED, toy
from ..helpers import assert_close, relative_error


_GOLDEN = pathlib.Path(make_scheduler.__file__).with_name("scheduler.npz")


@pytest.fixture(scope="module")
def golden():
    with np.load(_GOLDEN) as file:
        return dict(file)


def _sampler(**changes):
    return DDIM(SchedulerConfig.from_dict(SD14 | changes))


@ft.partial(jax.jit, static_argnums=0)
def _run(sampler, steps, latents, noise):
    """Many chains of one length at once."""

    def body(latents, row):
        step, noise = row
        prediction = toy(latents, step.timestep.astype(jnp.float32))
        return sampler.step(latents, prediction, step, noise), None

    chain = lambda steps: lax.scan(body, latents, (steps, noise))[0]
    return jax.vmap(chain)(steps)


def _finals(cases, latents, noise):
    """What each case ends with; cases that differ only in their tables run together."""
    groups, finals = {}, [None] * len(cases)
    for i, case in enumerate(cases):
        case = dict(case)
        num_steps, eta = case.pop("num_inference_steps"), case.pop("eta")
        config = SchedulerConfig.from_dict(SD14 | case)
        like = SchedulerConfig(
            prediction_type=config.prediction_type,
            clip_sample=config.clip_sample,
            clip_sample_range=config.clip_sample_range,
        )
        group = groups.setdefault((num_steps, like), [])
        group.append((i, DDIM(config).steps(num_steps, eta=eta)))
    for (num_steps, like), group in groups.items():
        steps = jax.tree.map(lambda *xs: jnp.stack(xs), *(steps for _, steps in group))
        out = _run(DDIM(like), steps, latents, jnp.asarray(noise[:num_steps]))
        for (i, _), final in zip(group, out, strict=True):
            finals[i] = np.asarray(final)
    return finals


def test_whole_chains_end_where_those_of_diffusers_end(golden):
    cases = json.loads(str(golden["cases"]))
    latents, noise = make_scheduler.inputs()
    finals = _finals(cases, jnp.asarray(latents), noise)
    for case, final, expected in zip(cases, finals, golden["final"], strict=True):
        # The golden was computed in float64; rounding adds up over a thousand steps.
        limit = 1e-5 if case["num_inference_steps"] <= 50 else 3e-5
        error = relative_error(final, expected)
        assert error < limit, f"{case}: {error:.1e}"


def test_timesteps_are_those_of_diffusers(golden):
    rest = golden["timesteps"]
    for case in json.loads(str(golden["cases"])):
        case.pop("eta")
        num_steps = case.pop("num_inference_steps")
        actual = _sampler(**case).timesteps(num_steps)
        assert actual.dtype == np.int32
        expected, rest = np.split(rest, [num_steps])
        np.testing.assert_array_equal(actual, expected, err_msg=str(case))
    assert rest.size == 0


@pytest.mark.parametrize("name", ["sd14", *SCHEDULES])
def test_tables_are_those_of_diffusers(name, golden):
    changes = SCHEDULES.get(name, {})
    length = dict(num_train_timesteps=50) if name == "trained" else {}
    alphas = _sampler(**changes, **length).config.alphas_cumprod()
    assert alphas.dtype == np.float32
    # diffusers multiplies a thousand times in float32.
    np.testing.assert_allclose(alphas[::THINNED], golden[f"alphas_{name}"], rtol=1e-5)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("train", [1000, 250])
def test_timesteps_are_those_of_diffusers_live(train, spacing):
    pytest.importorskip("diffusers")
    changes = dict(timestep_spacing=spacing, num_train_timesteps=train)
    theirs = make_scheduler.scheduler(changes)
    ours = _sampler(**changes)
    for num_steps in [*range(1, train, 7), 61, 103, 122, train - 1]:
        theirs.set_timesteps(num_steps)
        expected = theirs.timesteps.numpy()
        # See `test_every_chain_has_as_many_steps_as_asked`.
        expected = expected[:num_steps] if expected[-1] < 0 else expected
        np.testing.assert_array_equal(ours.timesteps(num_steps), expected)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_steps", [7, 50])
def test_eta_of_one_is_ancestral_sampling_live(num_steps):
    diffusers, torch = map(pytest.importorskip, ("diffusers", "torch"))
    latents, noise = make_scheduler.inputs()
    # Where strides are not all the same, diffusers' DDIM, which ours is, goes from one
    # timestep as if to another than the next; its DDPM does not.
    spacings = ["leading"] if num_steps == 7 else ["leading", "trailing"]
    cases = [
        dict(prediction_type=p, timestep_spacing=s, set_alpha_to_one=True)
        for p in make_scheduler.PREDICTIONS
        for s in spacings
    ]
    common = dict(num_inference_steps=num_steps, eta=1.0)
    finals = _finals([case | common for case in cases], jnp.asarray(latents), noise)
    for case, final in zip(cases, finals, strict=True):
        config = SD14 | case | dict(variance_type="fixed_small")
        ddpm = diffusers.DDPMScheduler.from_config(config)
        ddpm.set_timesteps(num_steps)
        x = torch.as_tensor(latents, dtype=torch.float64)
        for timestep, z in zip(ddpm.timesteps, noise[:num_steps], strict=True):
            prediction = toy(x, int(timestep))
            # It draws its own noise: without it here, ours scaled alike below.
            generator = torch.Generator().manual_seed(0)
            theirs = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            generator.manual_seed(0)
            step = ddpm.step(prediction, timestep, x, generator=generator).prev_sample
            scale = float(timestep > 0) * ddpm._get_variance(timestep) ** 0.5
            x = step + scale * (torch.as_tensor(z, dtype=x.dtype) - theirs)
        assert relative_error(final, x.numpy()) < 1e-4, case


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


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_chain_has_as_many_steps_as_asked(spacing):
    # diffusers visits a timestep -1 after 61 steps (and 61 other numbers of them) with
    # `trailing`: a stride of 1000 / 61 fits into 1000 once more by rounding.
    sampler = _sampler(timestep_spacing=spacing)
    for num_steps in range(1, 1001):
        timesteps = sampler.timesteps(num_steps)
        assert timesteps.shape == (num_steps,)
        assert timesteps.min() >= 0
        assert timesteps.max() <= 999
        assert np.all(np.diff(timesteps[1:]) < 0)


def test_as_many_steps_as_there_are_with_an_offset():
    # diffusers asks its table for the thousand-first entry and fails. The step from
    # beyond the end to the end is one that changes nothing.
    steps = _sampler().steps(1000)
    np.testing.assert_array_equal(steps.timestep[:3], [999, 999, 998])
    assert steps.prev_alpha[0] == steps.alpha[0] == steps.alpha[1]
    np.testing.assert_array_equal(steps.prev_alpha[1:-1], steps.alpha[2:])
    assert steps.noise_scale[0] == 0


def test_published_file_is_the_default():
    config = SchedulerConfig.from_dict(SD14)
    assert config == SchedulerConfig()
    assert SchedulerConfig.from_dict(config.to_dict()) == config
    np.testing.assert_array_equal(_sampler().timesteps(50)[[0, 1, -1]], [981, 961, 1])


@pytest.mark.parametrize("prediction_type", make_scheduler.PREDICTIONS)
def test_prediction_types_agree_on_what_they_mean(prediction_type, getkey):
    sampler = _sampler(prediction_type=prediction_type)
    x0, noise = jr.normal(getkey(), (2, 2, 3, 3, 4))
    step = sampler.steps(10)[4]
    latents = sampler.add_noise(x0, noise, step)
    velocity = jnp.sqrt(step.alpha) * noise - jnp.sqrt(1 - step.alpha) * x0
    prediction = dict(epsilon=noise, sample=x0, v_prediction=velocity)[prediction_type]
    assert_close(sampler.predict(latents, prediction, step), (x0, noise), scale=3.0)


def test_noise_is_left_out_unless_given(getkey):
    sampler = _sampler()
    latents, prediction, noise = jr.normal(getkey(), (3, 1, 2, 3, 4))
    quiet, noisy = sampler.steps(10)[3], sampler.steps(10, eta=1.0)[3]
    expected = sampler.step(latents, prediction, quiet)
    assert_close(sampler.step(latents, prediction, quiet, noise), expected)
    assert_close(sampler.step(latents, prediction, noisy), expected)
    assert not jnp.allclose(sampler.step(latents, prediction, noisy, noise), expected)


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
            return sampler.step(x, jnp.sqrt(1 - step.alpha) * x, step, noise), None

        return lax.scan(body, latents, (steps, jr.split(key, 250)))[0]

    assert abs(float(jnp.std(run(latents, getkey()))) - 1) < 0.03


@pytest.mark.parametrize("num_steps", [0, 1001, -1])
def test_number_of_steps_error_text(num_steps):
    text = rf"`num_inference_steps` must lie in \[1, 1000\]; got {num_steps}"
    with pytest.raises(ValueError, match=text):
        _sampler().timesteps(num_steps)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(beta_schedule="sigmoid"), "`beta_schedule` .* got 'sigmoid'"),
        (dict(prediction_type="flow"), "`prediction_type` .* got 'flow'"),
        (dict(timestep_spacing="karras"), "`timestep_spacing` .* got 'karras'"),
        (dict(thresholding=True), "`thresholding` .* must be False; got True"),
        (dict(rescale_betas_zero_snr=True), "`rescale_betas_zero_snr` .* got True"),
    ],
)
def test_what_is_not_implemented_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        _sampler(**changes)
