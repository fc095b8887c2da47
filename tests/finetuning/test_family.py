"""Every estimator on a model of three numbers: identities, and finite differences."""

import functools as ft

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import draftx
from draftx.diffusion import AbstractDenoiser, DDIM, run_chain, SchedulerConfig
from draftx.finetuning import Episode

from ..helpers import relative_error


_TOTAL = 5
_SAMPLER = DDIM(SchedulerConfig(set_alpha_to_one=True))
_SEED = 7
_KEY = jr.key(_SEED)
_NOISE_KEY = jr.key(8)
_BASE = np.asarray([0.1, 0.4, 0.2])


class _ToyDenoiser(AbstractDenoiser):
    weight: jax.Array

    def __call__(self, latents, index):
        scale = 2 - jnp.asarray(index).astype(latents.dtype) / 10
        return jnp.tanh(self.weight[None, None, None] * latents) * scale


def _decode(latents, remat):
    del remat
    return jax.nn.sigmoid(latents)


def _reward(images):
    return -jnp.mean((images - 0.3) ** 2, axis=(1, 2, 3))


def _episode(weight, latents, *, remat="none", images_at_once=None, eta=0.0):
    return Episode(
        sampler=_SAMPLER,
        denoiser=_ToyDenoiser(weight),
        decoder=_decode,
        steps=_SAMPLER.steps(_TOTAL, eta=eta),
        latents=latents,
        reward=_reward,
        prompts=None,
        remat=remat,
        images_at_once=images_at_once,
        noise_key=_NOISE_KEY if eta else None,
        base=eqx.Partial(_ToyDenoiser, jnp.asarray(_BASE, weight.dtype)),
    )


def _latents(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(2, 2, 2, 3)), dtype)


@ft.cache
def _gradient(method, seed=_SEED, **kwargs):
    """Value, gradient and rewards; every program is compiled once for all tests."""

    def objective(weight):
        return method(_episode(weight, _latents(), **kwargs), jr.key(seed))

    weight = jnp.asarray([0.3, 0.5, -0.2])
    run = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (value, rewards), gradient = run(weight)
    return value, gradient, rewards


_METHODS = {
    "draft": draftx.DRaFT(),
    "draft-2": draftx.DRaFT(2),
    "draft-lv": draftx.DRaFTLV(num_samples=2),
    "refl": draftx.ReFL(max_steps=4),
    "alignprop": draftx.AlignProp(),
    "alignprop-gaussian": draftx.AlignProp(distribution="gaussian", mean=3, std=1),
    "drtune": draftx.DRTune(num_trained_steps=2),
    "single": draftx.SingleRewardLV(num_samples=2),
}
# With a penalty, and one that treats the latents as constants.
_METHODS |= {
    f"{name}+": draftx.Penalized(_METHODS[name], weight=0.7)
    for name in ("draft", "draft-2", "draft-lv", "refl", "alignprop", "drtune")
}
_METHODS["single+"] = draftx.Penalized(_METHODS["single"], weight=0.7)
_METHODS["draft-2+stopped"] = draftx.Penalized(
    draftx.DRaFT(2), weight=0.7, stop_latents=True
)
_METHODS["alignprop+stopped"] = draftx.Penalized(
    draftx.AlignProp(), weight=0.7, stop_latents=True
)


@pytest.mark.parametrize("name", _METHODS)
def test_rewards_and_a_gradient_with_or_without_remat(name):
    _, gradient, rewards = _gradient(_METHODS[name], remat="step")
    assert rewards.shape == (2,)
    assert jnp.all(jnp.isfinite(gradient))
    assert jnp.all(gradient != 0)
    without = _gradient(_METHODS[name])[1]
    assert relative_error(gradient, without) < 1e-5


def test_refl_with_one_step_is_draft_1():
    refl, draft = _gradient(draftx.ReFL(max_steps=1)), _gradient(draftx.DRaFT(1))
    for actual, expected in zip(refl, draft, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_alignprop_is_draft_k_for_the_k_it_draws():
    drawn = set()
    for seed in (0, 1, 3, 6, 8):
        method = draftx.AlignProp()
        k = int(method.draw(_TOTAL, jr.key(seed)))
        drawn.add(k)
        expected = _gradient(draftx.DRaFT(k))
        for actual, wanted in zip(_gradient(method, seed), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5)
    assert drawn == set(range(1, _TOTAL + 1))


def test_alignprop_draws_in_its_range():
    keys = jr.split(_KEY, 4000)
    uniform = draftx.AlignProp(min_steps=2, max_steps=4)
    draws = np.asarray(jax.vmap(lambda k: uniform.draw(50, k))(keys))
    np.testing.assert_allclose(np.bincount(draws)[2:] / 4000, 1 / 3, atol=0.03)
    gaussian = draftx.AlignProp(distribution="gaussian", mean=8, std=5)
    draws = np.asarray(jax.vmap(lambda k: gaussian.draw(50, k))(keys))
    assert draws.min() == 1
    assert abs(np.median(draws) - 8) <= 1


def test_drtune_is_the_chain_with_the_input_stopped():
    # All steps trained: the same as a chain whose denoiser sees constants.
    class Stopped(AbstractDenoiser):
        inner: _ToyDenoiser

        def __call__(self, latents, index):
            return self.inner(lax.stop_gradient(latents), index)

    def objective(weight):
        episode = _episode(weight, _latents())
        stopped = Stopped(episode.denoiser)
        latents = run_chain(_SAMPLER, stopped, episode.steps, episode.latents)
        return jnp.mean(episode.score(latents))

    expected = jax.jit(jax.grad(objective))(jnp.asarray([0.3, 0.5, -0.2]))
    actual = _gradient(draftx.DRTune(num_trained_steps=_TOTAL))[1]
    assert relative_error(actual, expected) < 1e-5


def test_drtune_visits_evenly_spaced_steps_of_the_whole_chain():
    method = draftx.DRTune(num_trained_steps=4)
    seen = set()
    for seed in range(40):
        indices = np.asarray(method.indices(10, jr.key(seed)))
        assert np.all(np.diff(indices) == 2)
        assert indices.min() >= 0
        assert indices.max() < 10
        seen |= set(indices.tolist())
    assert seen == set(range(10))


def test_rewards_are_those_of_the_chain():
    _, _, chain = _gradient(draftx.DRaFT())
    for name in ("draft-2", "draft-lv", "alignprop", "drtune", "single", "draft+"):
        np.testing.assert_allclose(_gradient(_METHODS[name])[2], chain, rtol=1e-5)


def test_rewards_are_those_of_the_same_chain_with_noise():
    quiet = _gradient(draftx.DRaFT())[2]
    _, _, chain = _gradient(draftx.DRaFT(), eta=1.0)
    assert not np.allclose(chain, quiet, rtol=1e-2)
    for name in ("draft-2", "draft-lv", "alignprop", "drtune", "single"):
        rewards = _gradient(_METHODS[name], eta=1.0)[2]
        np.testing.assert_allclose(rewards, chain, rtol=1e-5)


def _assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7)


def test_full_k_is_draft():
    _assert_same(_gradient(draftx.DRaFT(_TOTAL)), _gradient(draftx.DRaFT()))


@pytest.mark.parametrize("method", [draftx.DRaFTLV, draftx.SingleRewardLV])
def test_lv_without_draws_is_draft_1(method):
    _assert_same(_gradient(method(num_samples=0)), _gradient(draftx.DRaFT(1)))


@pytest.mark.parametrize("method", [draftx.DRaFTLV, draftx.SingleRewardLV])
def test_lv_sum_is_the_mean_times_the_number_of_draws(method):
    mean = _gradient(method(num_samples=2))[1]
    total = _gradient(method(num_samples=2, reduction="sum"))[1]
    assert relative_error(total, 3 * mean) < 1e-5


def test_lv_of_many_draws_without_the_original_is_their_expectation():
    # Two halves of many draws agree with each other better than two single draws.
    draws = lambda n, seed: _gradient(
        draftx.DRaFTLV(num_samples=n, include_original=False), seed
    )[1]
    many = relative_error(draws(2000, 0), draws(2000, 1))
    assert many < 0.02
    assert relative_error(draws(1, 0), draws(2000, 1)) > 2 * many


def test_single_reward_is_lv_for_a_linear_reward():
    # Its assumption, that the reward has one slope, then holds.
    def linear(method):
        episode = eqx.tree_at(
            lambda e: (e.reward, e.decoder),
            _episode(jnp.zeros(3), _latents()),
            (lambda images: jnp.mean(images, axis=(1, 2, 3)), lambda x, remat: x),
        )

        def objective(weight):
            toy = _ToyDenoiser(weight)
            return method(eqx.tree_at(lambda e: e.denoiser, episode, toy), _KEY)

        grad = jax.jit(jax.grad(objective, has_aux=True))
        return grad(jnp.asarray([0.3, 0.5, -0.2]))

    for options in (dict(), dict(include_original=False), dict(reduction="sum")):
        single = linear(draftx.SingleRewardLV(num_samples=3, **options))
        _assert_same(single, linear(draftx.DRaFTLV(num_samples=3, **options)))


@pytest.mark.parametrize("name", ["draft-2", "draft-lv", "single"])
def test_one_image_at_a_time_is_all_at_once(name):
    apart = _gradient(_METHODS[name], images_at_once=1, remat="block")
    _assert_same(apart, _gradient(_METHODS[name]))


def test_penalty_of_weight_zero_is_none_and_of_the_base_model_zero():
    method = draftx.DRaFT(2)
    plain = _gradient(method)
    _assert_same(_gradient(draftx.Penalized(method, weight=0)), plain)

    def objective(weight):
        return draftx.Penalized(method)(_episode(weight, _latents()), _KEY)

    plainly = lambda weight: method(_episode(weight, _latents()), _KEY)
    base = jnp.asarray(_BASE, jnp.float32)
    actual = jax.jit(jax.value_and_grad(objective, has_aux=True))(base)
    expected = jax.jit(jax.value_and_grad(plainly, has_aux=True))(base)
    np.testing.assert_allclose(actual[0][0], expected[0][0], rtol=1e-6)
    assert relative_error(actual[1], expected[1]) < 1e-5


def test_penalty_counts_what_it_costs():
    plain = draftx.DRaFT(2).budget(5, 4)
    flowing = draftx.Penalized(draftx.DRaFT(2)).budget(5, 4)
    stopped = draftx.Penalized(draftx.DRaFT(2), stop_latents=True).budget(5, 4)
    assert flowing.unet_forwards == plain.unet_forwards + 2 * 2 * 4
    assert stopped.unet_forwards == plain.unet_forwards + 2 * 2 * 2 * 4
    assert stopped.unet_backwards == 2 * plain.unet_backwards
    assert draftx.Penalized(draftx.DRaFT(2), weight=0).budget(5, 4) == plain


def _held(name, episode, fixed, weight):
    """What a method differentiates, written out: `fixed` is the weight it stops."""
    steps, last = episode.steps, _TOTAL - 1
    frozen, trained = _ToyDenoiser(fixed), _ToyDenoiser(weight)
    base = _ToyDenoiser(jnp.asarray(_BASE, weight.dtype))
    name, plus, option = name.partition("+")
    method, penalties = _METHODS[name], []
    visited, predictions = [episode.latents], []

    def step(latents, prediction, i, noise=None):
        if episode.noise_key is not None and noise is None:
            key = jr.fold_in(episode.noise_key, i)
            noise = jr.normal(key, latents.shape, latents.dtype)
        return _SAMPLER.step(latents, prediction, steps[i], noise)

    for i in range(_TOTAL):
        predictions.append(frozen(visited[i], i))
        visited.append(step(visited[i], predictions[i], i))

    def score(latents):
        return jnp.mean(_reward(_decode(latents, "none")))

    def predict(latents, i, at=None):
        at = visited[i] if at is None else at  # What the base model is asked about.
        prediction = trained(latents, i)
        charged = trained(at, i) if option == "stopped" else prediction
        penalties.append(jnp.mean((charged - base(at, i)) ** 2))
        return prediction

    def run(latents, first):
        for i in range(first, _TOTAL):
            latents = step(latents, predict(latents, i), i)
        return score(latents)

    def redraw(key):
        noise = jr.normal(key, visited[0].shape, visited[0].dtype)
        noised = _SAMPLER.add_noise(visited[_TOTAL], noise, steps[last])
        return _SAMPLER.step(noised, predict(noised, last, noised), steps[last])

    match name:
        case "draft":
            total = run(episode.latents, 0)
        case "draft-2":
            total = run(visited[_TOTAL - 2], _TOTAL - 2)
        case "alignprop":
            first = _TOTAL - int(method.draw(_TOTAL, _KEY))
            total = run(visited[first], first)
        case "refl":
            left = jr.randint(_KEY, (), method.min_steps, method.max_steps + 1)
            i = _TOTAL - int(left)
            prediction = predict(visited[i], i)
            total = score(_SAMPLER.predict(visited[i], prediction, steps[i])[0])
        case "draft-lv":
            total = run(visited[last], last)
            total = total + sum(score(redraw(key)) for key in jr.split(_KEY, 2))
            total = total / 3
        case "single":
            slope = jax.grad(score)(visited[_TOTAL])
            x0s = [step(visited[last], predict(visited[last], last), last)]
            x0s += [redraw(key) for key in jr.split(_KEY, 2)]
            total = sum(jnp.sum(slope * x0) for x0 in x0s) / 3
        case _:
            for i in method.indices(_TOTAL, _KEY).tolist():
                predictions[i] = predict(visited[i], i)
            latents = visited[0]
            for i in range(_TOTAL):
                latents = step(latents, predictions[i], i)
            total = score(latents)
    if plus:
        total = total - 0.7 * sum(penalties) / len(penalties)
    return total


@pytest.mark.parametrize(
    ("name", "eta"),
    [(name, 0.0) for name in _METHODS if name != "alignprop-gaussian"]
    + [(name, 1.0) for name in ("draft-2", "alignprop", "refl", "drtune+")],
)
def test_gradient_meets_finite_differences_in_float64(name, eta):
    with jax.enable_x64(True):
        weight = jnp.asarray([0.3, 0.5, -0.2], jnp.float64)
        steps = jax.tree.map(
            lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x,
            _SAMPLER.steps(_TOTAL, eta=eta),
        )
        episode = _episode(weight, _latents(jnp.float64), eta=eta)
        episode = eqx.tree_at(lambda e: e.steps, episode, steps)

        def value(weight):
            toy = _ToyDenoiser(weight)
            return _METHODS[name](eqx.tree_at(lambda e: e.denoiser, episode, toy), _KEY)

        (actual, _), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(weight)
        held = lambda w: _held(name, episode, weight, w)
        if not name.startswith("single"):  # Its value is the mean reward.
            np.testing.assert_allclose(actual, held(weight), rtol=1e-12)
        for axis, d in enumerate(1e-5 * jnp.eye(3)):
            numeric = (held(weight + d) - held(weight - d)) / 2e-5
            np.testing.assert_allclose(gradient[axis], numeric, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: draftx.ReFL(max_steps=0), "`max_steps` must be a whole number"),
        (lambda: draftx.ReFL(min_steps=3, max_steps=2), "of at least 3; got 2"),
        (lambda: draftx.AlignProp(min_steps=0), "`min_steps` must be a whole number"),
        (lambda: draftx.AlignProp(distribution="gaussian", std=0), "`std`"),
        (lambda: draftx.DRTune(num_trained_steps=0), "`num_trained_steps` must be"),
        (lambda: draftx.Penalized(draftx.DRaFT(), weight=-1), "`weight` must be"),
        (
            lambda: draftx.Penalized(draftx.Penalized(draftx.DRaFT())),
            "`method` must be one of DRaFT, .*; got Penalized",
        ),
        (lambda: draftx.SingleRewardLV(num_samples=-1), "`num_samples` must be a"),
        (lambda: draftx.DRaFTLV(num_samples=-1), "`num_samples` must be a whole"),
        (lambda: draftx.DRaFTLV(num_samples=0, include_original=False), "at least 1"),
        (lambda: draftx.DRaFT(truncation_steps=0), "With 0 nothing would be trained"),
        (lambda: draftx.ReFL(max_steps=9).check(8), "at most 8, the number of steps"),
        (lambda: draftx.AlignProp(max_steps=9).check(8), "at most 8, the number of"),
        (lambda: draftx.DRTune(num_trained_steps=9).check(8), "at most 8, the number"),
    ],
)
def test_impossible_numbers_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
