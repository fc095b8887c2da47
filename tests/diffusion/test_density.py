"""Log-densities of the steps of a chain, by formula and by torch."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from draftx.diffusion import DDIM, log_prob, random_steps, SchedulerConfig


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


def test_steps_without_noise_have_no_density():
    ends = DDIM(SchedulerConfig(set_alpha_to_one=True))
    assert random_steps(ends, 4, 1.0).tolist() == [0, 1, 2]
    assert random_steps(_SAMPLER, 4, 1.0).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="must leave a step that adds noise"):
        random_steps(ends, 1, 1.0)
