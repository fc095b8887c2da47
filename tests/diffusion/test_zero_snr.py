"""Schedules that end in noise alone, or begin without any, and what divides by zero."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import Ancestral, DDIM, Euler
from draftx.models import ConfigError

from ..goldens import make_scheduler
from ..goldens.make_scheduler import PREDICTIONS, SPACINGS
from ..toys import config


SAMPLERS = {"DDIM": DDIM, "DDPM": Ancestral, "EulerDiscrete": Euler}
PUBLISHED = dict(
    rescale_betas_zero_snr=True,
    prediction_type="v_prediction",
    timestep_spacing="trailing",
)
# Ten timesteps, the last without signal, or the first without noise.
LAST = dict(num_train_timesteps=10, trained_betas=[0.1] * 9 + [1.0], steps_offset=0)
FIRST = dict(num_train_timesteps=10, trained_betas=[0.0] + [0.1] * 9, steps_offset=0)


def test_the_table_is_stretched_until_it_ends_in_nothing():
    plain, stretched = config().alphas_cumprod(), config(**PUBLISHED).alphas_cumprod()
    assert stretched[-1] == 0
    assert stretched[0] == plain[0]
    assert np.all(np.diff(stretched) < 0)
    # The move is the same at every timestep, the stretch that which keeps the first.
    roots, moved = np.sqrt(np.asarray([plain, stretched], np.float64))
    stretch = roots[0] / (roots[0] - roots[-1])
    np.testing.assert_allclose(moved, (roots - roots[-1]) * stretch, atol=1e-7)


@pytest.mark.parametrize("sampler", [DDIM, Ancestral])
def test_the_first_step_takes_a_velocity_for_the_picture(sampler, getkey):
    # Of noise alone, v = 0 * noise - 1 * clean.
    sampler = sampler(config(**PUBLISHED))
    noise, velocity = jr.normal(getkey(), (2, 1, 2, 2, 3))
    step = sampler.steps(4, 0.0)[0]
    assert step.timestep == 999
    clean, said = sampler.predict(noise, velocity, step)
    np.testing.assert_array_equal(clean, -velocity)
    np.testing.assert_array_equal(said, noise)

    def end(velocity):
        return jnp.sum(sampler.update(noise, velocity, step)[0] ** 2)

    assert np.all(np.isfinite(jax.grad(end)(velocity)))


def test_euler_starts_at_the_least_signal_of_float16():
    steps = Euler(config(**PUBLISHED)).steps(4, 0.0)
    # sqrt((1 - 2^-24) / 2^-24), diffusers' first sigma.
    np.testing.assert_allclose(steps.sigma[0] / steps.signal[0], 4095.9998, rtol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_from_noise_alone_to_noise_alone_change_nothing(name):
    # With an offset, as many steps as there are begin beyond the schedule.
    leading = PUBLISHED | dict(timestep_spacing="leading", steps_offset=1)
    sampler = SAMPLERS[name](config(**leading))
    steps = sampler.steps(1000, 1.0 if sampler.takes_eta else 0.0)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(steps))
    assert steps.noise_scale[0] == 0
    latents = jnp.ones((1, 1, 1, 1))
    after, _ = sampler.update(latents, 3 * latents, steps[0])
    np.testing.assert_allclose(after, latents, rtol=1e-6)


def _refused():
    for name in ("DDIM", "DDPM"):
        for changes in (PUBLISHED | dict(prediction_type="epsilon"), LAST):
            yield name, changes, "`prediction_type` must not be 'epsilon'.* at .*9"
    for prediction in PREDICTIONS:
        yield (
            "EulerDiscrete",
            LAST | dict(prediction_type=prediction),
            r"without signal; got .* of 0 at timesteps \[9\].*v_prediction",
        )
        for name in SAMPLERS:
            text = r"got none at \[0\]\. Begin later with `steps_offset`"
            yield name, FIRST | dict(prediction_type=prediction), text


REFUSED = list(_refused())


@pytest.mark.parametrize(("name", "changes", "text"), REFUSED)
def test_a_division_by_zero_is_refused(name, changes, text):
    with pytest.raises(ValueError, match=text):
        SAMPLERS[name](config(**changes)).steps(10, 0.0)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "changes", "text"), REFUSED)
def test_what_is_refused_is_not_finite_with_diffusers_live(name, changes, text):
    torch = pytest.importorskip("torch")
    theirs = make_scheduler.scheduler(changes, f"{name}Scheduler")
    theirs.set_timesteps(10)
    broken = []
    for timestep in theirs.timesteps:
        x = torch.full((1, 1, 1, 1), 0.5) * theirs.init_noise_sigma
        if name == "EulerDiscrete":
            x = theirs.scale_model_input(x, timestep)
        out = theirs.step(torch.full_like(x, 0.25), timestep, x)
        broken += [not torch.isfinite(y).all() for y in out.to_tuple()]
    # Its DDPM does not divide by the noise at timestep 0 to go on from there, but what
    # draftx asks it for too, the noise predicted, is not to be had.
    assert any(broken) or (name == "DDPM" and changes["trained_betas"][0] == 0)


@pytest.mark.parametrize("sampler", [DDIM, Ancestral])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_where_nothing_is_divided_by_zero_nothing_is_refused(sampler, spacing):
    for changes in (PUBLISHED, LAST | dict(prediction_type="sample")):
        sampler(config(**changes | dict(timestep_spacing=spacing))).steps(5, 0.0)
    # The last timestep is left out.
    left_out = dict(prediction_type="epsilon", timestep_spacing="leading")
    sampler(config(**PUBLISHED | left_out)).steps(50, 0.0)


def test_euler_passes_the_timestep_that_it_leaves_out():
    steps = Euler(config(**LAST | dict(timestep_spacing="leading"))).steps(5, 0.0)
    assert steps.timestep[0] == 8
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(steps))


def test_a_picture_is_refused_before_any_work(short_pipeline):
    noiseless = DDIM(config(**PUBLISHED | dict(prediction_type="epsilon")))
    pipeline = dataclasses.replace(short_pipeline, sampler=noiseless)
    with pytest.raises(ValueError, match="`prediction_type` must not be 'epsilon'"):
        draftx.sample(pipeline, ["a cat"], draftx.Sampling(2))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(trained_betas=[0.1] * 9), "an entry for each of the 1000 .* got 9"),
        (dict(trained_betas=[0.1] * 999 + [1.5]), r"`trained_betas\[999\]` .* got 1.5"),
        (dict(trained_betas=[float("nan")] * 1000), r"`trained_betas\[0\]` .* got nan"),
        (dict(beta_start=-0.1), "`beta_start` .* got -0.1"),
        (dict(beta_end=2), "`beta_end` .* got 2"),
        (dict(steps_offset=-1), "`steps_offset` .* got -1"),
        (
            dict(num_train_timesteps=1, rescale_betas_zero_snr=True),
            "`rescale_betas_zero_snr` .* must be false for a schedule without noise",
        ),
    ],
)
def test_schedules_that_are_none_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        config(**changes)


def test_a_longer_table_than_needed_is_read_as_diffusers_reads_it():
    longer = dataclasses.replace(
        config(**LAST), trained_betas=(0.1,) * 12, timestep_spacing="linspace"
    )
    np.testing.assert_array_equal(DDIM(longer).steps(3, 0.0).timestep, [9, 4, 0])
