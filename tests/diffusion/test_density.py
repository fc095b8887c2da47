"""Log-densities of the steps of a chain, by formula and by torch."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from draftx.diffusion import (
    DDIM,
    log_prob,
    log_ratio,
    random_steps,
    SchedulerConfig,
)


_SAMPLER = DDIM(SchedulerConfig(set_alpha_to_one=False, steps_offset=1))


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_log_prob_is_the_density_of_ddim(eta):
    # Written out in float64 from the formula, not from the sampler.
    steps = _SAMPLER.steps(5, eta=eta)
    rng = np.random.default_rng(0)
    x, e, following = (rng.normal(size=(2, 2, 2, 3)) for _ in range(3))
    alphas = _SAMPLER.config.alphas_cumprod().astype(np.float64)
    for i, t in enumerate(np.asarray(steps.timestep)):
        previous = t - 1000 // 5
        a, b = alphas[t], alphas[previous] if previous >= 0 else alphas[0]
        variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        x0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        mean = math.sqrt(b) * x0 + math.sqrt(1 - b - variance) * e
        each = -((following - mean) ** 2) / (2 * variance)
        each -= math.log(2 * math.pi * variance) / 2
        for reduction, reduce in (("sum", np.sum), ("mean", np.mean)):
            actual = log_prob(
                _SAMPLER,
                jnp.asarray(x, jnp.float32),
                jnp.asarray(e, jnp.float32),
                steps[i],
                jnp.asarray(following, jnp.float32),
                reduction=reduction,
            )
            np.testing.assert_allclose(actual, reduce(each, (1, 2, 3)), rtol=2e-4)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_log_prob_is_torchs_of_diffusers_step():
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    config = _SAMPLER.config
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing=config.timestep_spacing,
    )
    scheduler.set_timesteps(5)
    steps = _SAMPLER.steps(5, eta=1.0)
    rng = np.random.default_rng(0)
    x, e, following = rng.normal(size=(3, 2, 2, 2, 3)).astype(np.float32)
    for i, t in enumerate(scheduler.timesteps):
        zeros = torch.zeros(x.shape)
        step = lambda noise, t=t: (
            scheduler.step(
                torch.from_numpy(e),
                t,
                torch.from_numpy(x),
                eta=1.0,
                variance_noise=noise,
            ).prev_sample
        )
        mean = step(zeros)
        std = (step(zeros + 1) - mean).mean()
        normal = torch.distributions.Normal(mean, std)
        expected = normal.log_prob(torch.from_numpy(following)).sum((1, 2, 3))
        arrays = [jnp.asarray(a) for a in (x, e, following)]
        actual = log_prob(_SAMPLER, *arrays[:2], steps[i], arrays[2], reduction="sum")
        np.testing.assert_allclose(actual, expected, rtol=2e-3)


def _problem(moved, index, *, sampler=_SAMPLER, seed=0):
    """A step of Stable Diffusion's 16,384 numbers as an old model drew it, and what a
    new one predicts; the log-ratio of their sum, by the formula in float64."""
    rng = np.random.default_rng(seed)
    step = sampler.steps(50, eta=1.0)[index]
    a, b, sigma = (
        np.float64(np.asarray(x))
        for x in (step.alpha, step.prev_alpha, step.noise_scale)
    )
    x, old, way, noise = rng.normal(size=(4, 1, 64, 64, 4)).astype(np.float32)
    new = old + np.float32(moved) * way

    def mean(e):
        x0 = (x - np.sqrt(1 - a) * e.astype(np.float64)) / np.sqrt(a)
        if sampler.config.clip_sample:
            x0 = np.clip(x0, -1, 1)
        return np.sqrt(b) * x0 + np.sqrt(1 - b - sigma**2) * e

    following = (mean(old) + sigma * noise).astype(np.float32)
    m0, m1, y = mean(old), mean(new), following.astype(np.float64)
    expected = np.sum((m1 - m0) * ((y - m0) + (y - m1))) / (2 * sigma**2)
    x, old, new, following = map(jnp.asarray, (x, old, new, following))
    return (sampler, x, (new, old), step, following), expected


@pytest.mark.parametrize("moved", [1e-4, 1e-3])
@pytest.mark.parametrize("index", [0, 25, 49])
def test_the_ratio_of_a_sum_is_right_to_a_part_of_the_clip_range(moved, index):
    args, expected = _problem(moved, index)
    actual = float(log_ratio(*args, reduction="sum")[0])
    # The largest error seen is 6e-7; DDPO's clip range is 1e-4. The difference of two
    # log-densities is wrong by 2e-5 to 4e-3, that of rounded means by 1e-5 to 6e-4.
    assert abs(actual - expected) < 2e-6
    mean = float(log_ratio(*args)[0])
    np.testing.assert_allclose(mean, actual / 16384, rtol=1e-5, atol=1e-12)


def test_the_ratio_of_clipped_means_is_theirs():
    clipped = DDIM(SchedulerConfig(clip_sample=True))
    args, expected = _problem(0.3, 10, sampler=clipped)
    actual = float(log_ratio(*args, reduction="sum")[0])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_the_ratio_is_the_difference_of_densities_and_so_is_its_gradient():
    with jax.enable_x64(True):
        (sampler, x, (new, old), step, following), _ = _problem(1e-2, 25)
        double = lambda tree: jax.tree.map(
            lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, tree
        )
        x, new, old, step, following = double((x, new, old, step, following))
        density = lambda e: log_prob(sampler, x, e, step, following, reduction="sum")[0]
        ratio = lambda e: log_ratio(
            sampler, x, (e, old), step, following, reduction="sum"
        )[0]
        np.testing.assert_allclose(ratio(new), density(new) - density(old), rtol=1e-9)
        np.testing.assert_allclose(
            jax.grad(ratio)(new), jax.grad(density)(new), rtol=1e-8
        )
        assert ratio(old) == 0


def test_steps_without_noise_have_no_density():
    ends = DDIM(SchedulerConfig(set_alpha_to_one=True))
    assert random_steps(ends, 4, 1.0).tolist() == [0, 1, 2]
    assert random_steps(_SAMPLER, 4, 1.0).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="must leave a step that adds noise"):
        random_steps(ends, 1, 1.0)
