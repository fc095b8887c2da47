"""Log-densities, score-function gradients and budgets, on a model of three numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import AbstractDenoiser, DDIM, run_chain, SchedulerConfig
from draftx.finetuning import Episode, log_prob, random_steps, record_chain
from draftx.finetuning._advantages import AdvantageNormalizer

from ..helpers import relative_error


_SAMPLER = DDIM(SchedulerConfig(set_alpha_to_one=False, steps_offset=1))
_CALLS = {"forward": 0, "backward": 0}


class _ToyDenoiser(AbstractDenoiser):
    weight: jax.Array

    def __call__(self, latents, index):
        scale = 2 - jnp.asarray(index).astype(latents.dtype) / 10
        return jnp.tanh(self.weight[None, None, None] * latents) * scale


def _latents(batch=2):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(batch, 2, 2, 3)), jnp.float32)


def _episode(denoiser, total, *, batch=2, reward=None, sampler=_SAMPLER):
    reward = reward or (lambda images: -jnp.mean((images - 0.3) ** 2, axis=(1, 2, 3)))
    return Episode(
        sampler=sampler,
        denoiser=denoiser,
        decoder=lambda latents, remat: jax.nn.sigmoid(latents),
        steps=sampler.steps(total),
        latents=_latents(batch),
        reward=reward,
        prompts=None,
        remat="none",
        images_at_once=None,
    )


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_log_prob_is_the_density_of_ddim(eta):
    # Written out in float64 from the formula, not from the sampler.
    steps = _SAMPLER.steps(5, eta=eta)
    rng = np.random.default_rng(0)
    x, e, following = (rng.normal(size=(2, 2, 2, 3)) for _ in range(3))
    alphas = _SAMPLER.config.alphas_cumprod().astype(np.float64)
    for i, t in enumerate(_SAMPLER.timesteps(5)):
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


def test_recorded_chain_is_the_chain():
    toy, steps = _ToyDenoiser(jnp.asarray([0.3, 0.5, -0.2])), _SAMPLER.steps(4, eta=1.0)
    key = jr.key(3)
    visited, predictions = record_chain(_SAMPLER, toy, steps, _latents(), key)
    chain = run_chain(_SAMPLER, toy, steps, _latents(), key=key)
    assert (len(visited), len(predictions)) == (5, 4)
    np.testing.assert_allclose(visited[-1], chain, rtol=1e-5, atol=1e-6)


def test_steps_without_noise_have_no_density():
    ends = DDIM(SchedulerConfig(set_alpha_to_one=True))
    assert random_steps(ends, 4, 1.0).tolist() == [0, 1, 2]
    assert random_steps(_SAMPLER, 4, 1.0).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="must leave a step that adds noise"):
        random_steps(ends, 1, 1.0)


def test_score_function_meets_finite_differences_of_the_expected_reward():
    # One step from fixed noise: the expectation is over that step's noise alone. Both
    # are means over the same draws, which differ in what they average.
    sampler = DDIM(SchedulerConfig(set_alpha_to_one=False, steps_offset=700))
    batch, weight = 40_000, jnp.asarray([0.3, 0.5, -0.2])
    start = jnp.broadcast_to(_latents(1), (batch, 2, 2, 3))
    reward = lambda images: jnp.sum(images[:, 0, 0], axis=-1)

    def episode(weight):
        toy = _ToyDenoiser(weight)
        made = _episode(toy, 1, reward=reward, sampler=sampler)
        return dataclasses.replace(made, latents=start)

    method, key = draftx.ScoreFunction(), jr.key(0)
    assert random_steps(sampler, 1, 1.0).tolist() == [0]

    @jax.jit
    def expected(weight):
        made = episode(weight)
        steps = sampler.steps(1, eta=1.0)
        clean = run_chain(sampler, made.denoiser, steps, made.latents, key=key)
        return jnp.mean(made.score(clean))

    run = jax.jit(jax.value_and_grad(lambda w: method(episode(w), key), has_aux=True))
    (value, rewards), gradient = run(weight)
    np.testing.assert_allclose(value, jnp.mean(rewards), rtol=1e-5)
    np.testing.assert_allclose(value, expected(weight), rtol=1e-5)
    numeric = jnp.asarray(
        [(expected(weight + d) - expected(weight - d)) / 0.2 for d in 0.1 * jnp.eye(3)]
    )
    assert relative_error(gradient, numeric) < 0.1
    assert float(jnp.linalg.norm(numeric)) > 0.01


def test_score_function_does_not_touch_the_reward():
    def host(images):
        return np.asarray(images).mean((1, 2, 3)).round(2)

    reward = draftx.rewards.HostReward(host)
    weight = jnp.asarray([0.3, 0.5, -0.2])

    @jax.jit
    @jax.grad
    def gradient(weight):
        episode = _episode(_ToyDenoiser(weight), 3, batch=4, reward=reward)
        episode = dataclasses.replace(episode, images_at_once=2)
        return draftx.ScoreFunction(normalize=True)(episode, jr.key(0))[0]

    assert jnp.all(jnp.isfinite(gradient(weight)))
    assert jnp.any(gradient(weight) != 0)


class _Counting(AbstractDenoiser):
    """Counts the rows that are evaluated, and those that gradients pass through."""

    inner: _ToyDenoiser

    def __call__(self, latents, index):
        return _counted(self.inner(latents, index))


@jax.custom_vjp
def _counted(x):
    # Given what it counts, or a loop would call it once for all of its turns.
    jax.debug.callback(lambda x: _tick("forward", x), x)
    return x


def _tick(name, rows):
    _CALLS[name] += len(rows)


def _backward(_, cotangent):
    jax.debug.callback(lambda x: _tick("backward", x), cotangent)
    return (cotangent,)


_counted.defvjp(lambda x: (_counted(x), None), _backward)


@pytest.mark.parametrize(
    "method",
    [
        draftx.DRaFT(),
        draftx.DRaFT(2),
        draftx.DRaFTLV(num_samples=3),
        draftx.ReFL(min_steps=2, max_steps=2),
        draftx.DRTune(num_trained_steps=2),
        draftx.ScoreFunction(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_budgets_are_what_is_evaluated(method):
    _CALLS.update(forward=0, backward=0)

    def objective(weight):
        episode = _episode(_Counting(_ToyDenoiser(weight)), 4)
        return method(episode, jr.key(0))[0]

    jax.block_until_ready(jax.jit(jax.grad(objective))(jnp.ones(3)))
    jax.effects_barrier()
    budget = method.budget(4, 2, guided=False)
    assert budget.unet_forwards == _CALLS["forward"]
    assert budget.unet_backwards == _CALLS["backward"]
    guided = method.budget(4, 2)
    assert guided.unet_forwards == 2 * budget.unet_forwards
    assert guided.reward_queries == budget.reward_queries


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_the_mean_of_alignprop_is_that_of_its_draws(distribution):
    method = draftx.AlignProp(distribution, min_steps=2, max_steps=9, mean=3, std=2)
    draws = jax.vmap(lambda key: method.draw(10, key))(jr.split(jr.key(0), 20_000))
    np.testing.assert_allclose(method.mean_steps(10), np.mean(draws), atol=0.05)


def test_budgets_add_up_and_must_be_sound():
    one = draftx.Budget(images=1, unet_forwards=10)
    both = 3 * one + draftx.Budget(seconds=2.5)
    assert both == draftx.Budget(3, 0, 30, 0, 2.5)
    assert both.as_dict()["unet_forwards"] == 30
    with pytest.raises(ValueError, match="`images` must be finite and not negative"):
        draftx.Budget(images=-1)


def test_advantages_are_of_the_prompt_once_it_is_known():
    normalize = AdvantageNormalizer("per_prompt", buffer_size=4, min_count=3)
    rows = np.asarray([0, 0, 0, 1])
    rewards = np.asarray([1.0, 2.0, 3.0, 10.0])
    advantages = normalize(rows, rewards)
    np.testing.assert_allclose(
        advantages[:3], (rewards[:3] - 2) / rewards[:3].std(), rtol=1e-4
    )
    np.testing.assert_allclose(advantages[3], (10 - 4) / rewards.std(), rtol=1e-4)
    # The latest four of prompt 0: 2, 3, 4, 5.
    latest = normalize(np.asarray([0, 0]), np.asarray([4.0, 5.0]))
    np.testing.assert_allclose(
        latest, np.asarray([0.5, 1.5]) / np.sqrt(1.25), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: draftx.DDPO(clip_range=0.0), "`clip_range` must be finite and pos"),
        (lambda: draftx.DDPO(eta=0.0), r"`eta` must lie in \(0, 1\]"),
        (lambda: draftx.DDPO(min_count=17), r"`min_count` must lie in"),
        (lambda: draftx.RewardWeighted(temperature=0.0), "`temperature` must be"),
        (lambda: draftx.DPG(critic_rank=0), "`critic_rank` must be"),
        (lambda: draftx.DPG(eta=1.0), "`eta` must be 0"),
        (lambda: draftx.ScoreFunction(eta=2.0), r"`eta` must lie in \(0, 1\]"),
    ],
)
def test_impossible_numbers_are_named(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_estimators_say_whether_they_ask_the_reward_for_a_gradient():
    assert draftx.DRaFT().needs_reward_gradient()
    assert not draftx.ScoreFunction().needs_reward_gradient()
