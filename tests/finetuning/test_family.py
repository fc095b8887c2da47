"""Every estimator on a model of three numbers: identities, and finite differences."""

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
_KEY = jr.key(7)


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


def _episode(weight, latents, *, sampler=_SAMPLER, remat="none"):
    return Episode(
        sampler=sampler,
        denoiser=_ToyDenoiser(weight),
        decoder=_decode,
        steps=sampler.steps(_TOTAL),
        latents=latents,
        reward=_reward,
        prompts=None,
        remat=remat,
        images_at_once=None,
    )


def _latents(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(2, 2, 2, 3)), dtype)


def _gradient(method, key=_KEY, **kwargs):
    """Value, gradient and rewards."""

    def objective(weight):
        return method(_episode(weight, _latents(), **kwargs), key)

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
}


@pytest.mark.parametrize("name", _METHODS)
@pytest.mark.parametrize("remat", ["none", "step"])
def test_rewards_and_a_gradient(name, remat):
    _, gradient, rewards = _gradient(_METHODS[name], remat=remat)
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
        method, key = draftx.AlignProp(), jr.key(seed)
        k = int(method.draw(_TOTAL, key))
        drawn.add(k)
        expected = _gradient(draftx.DRaFT(k))
        for actual, wanted in zip(_gradient(method, key), expected, strict=True):
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
    for name in ("draft-2", "draft-lv", "alignprop", "drtune"):
        np.testing.assert_allclose(_gradient(_METHODS[name])[2], chain, rtol=1e-5)


def _held(name, episode, fixed, weight):
    """What a method differentiates, written out: `fixed` is the weight it stops."""
    steps, last = episode.steps, _TOTAL - 1
    frozen, trained = _ToyDenoiser(fixed), _ToyDenoiser(weight)
    visited, predictions = [episode.latents], []
    for i in range(_TOTAL):
        predictions.append(frozen(visited[i], i))
        visited.append(_SAMPLER.step(visited[i], predictions[i], steps[i]))

    def score(latents):
        return jnp.mean(_reward(_decode(latents, "none")))

    def run(latents, first):
        for i in range(first, _TOTAL):
            latents = _SAMPLER.step(latents, trained(latents, i), steps[i])
        return latents

    if name == "draft":
        return score(run(episode.latents, 0))
    if name == "draft-2":
        return score(run(visited[_TOTAL - 2], _TOTAL - 2))
    if name == "alignprop":
        first = _TOTAL - int(_METHODS[name].draw(_TOTAL, _KEY))
        return score(run(visited[first], first))
    if name == "refl":
        method = _METHODS[name]
        left = jr.randint(_KEY, (), method.min_steps, method.max_steps + 1)
        i = _TOTAL - int(left)
        latents = visited[i]
        x0, _ = _SAMPLER.predict(latents, trained(latents, i), steps[i])
        return score(x0)
    if name == "draft-lv":
        total = score(run(visited[last], last))
        for key in jr.split(_KEY, 2):
            noise = jr.normal(key, visited[0].shape, visited[0].dtype)
            noised = _SAMPLER.add_noise(visited[_TOTAL], noise, steps[last])
            total = total + score(run(noised, last))
        return total / 3
    for i in _METHODS[name].indices(_TOTAL, _KEY).tolist():
        predictions[i] = trained(visited[i], i)
    latents = visited[0]
    for i in range(_TOTAL):
        latents = _SAMPLER.step(latents, predictions[i], steps[i])
    return score(latents)


@pytest.mark.parametrize(
    "name", ["draft", "draft-2", "draft-lv", "refl", "alignprop", "drtune"]
)
def test_gradient_meets_finite_differences_in_float64(name):
    with jax.enable_x64(True):
        weight = jnp.asarray([0.3, 0.5, -0.2], jnp.float64)
        steps = jax.tree.map(
            lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x,
            _SAMPLER.steps(_TOTAL),
        )
        episode = eqx.tree_at(
            lambda e: e.steps, _episode(weight, _latents(jnp.float64)), steps
        )

        def value(weight):
            toy = _ToyDenoiser(weight)
            return _METHODS[name](eqx.tree_at(lambda e: e.denoiser, episode, toy), _KEY)

        (actual, _), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(weight)
        held = lambda w: _held(name, episode, weight, w)
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
        (lambda: draftx.ReFL(max_steps=9).check(8), "at most 8, the number of steps"),
        (lambda: draftx.AlignProp(max_steps=9).check(8), "at most 8, the number of"),
        (lambda: draftx.DRTune(num_trained_steps=9).check(8), "at most 8, the number"),
    ],
)
def test_impossible_numbers_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
