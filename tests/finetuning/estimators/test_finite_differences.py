"""Every estimator against finite differences of what it means, written out."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx.diffusion import DDIM

from ...toys import (
    BASE,
    SAMPLER,
    TOTAL,
    toy_decode,
    toy_noise,
    toy_reward,
    toy_steps,
    ToyDenoiser,
    WEIGHT,
)
from .family import episode, KEY, METHODS


class _Precise(DDIM):
    """Gives its steps in float64, also to methods that ask it for others."""

    def steps(self, num_inference_steps, eta):
        return toy_steps(jnp.float64, total=num_inference_steps, eta=eta)


def _held(name, episode, fixed, weight):
    """What a method differentiates, written out: `fixed` is the weight it stops."""
    chain, last = episode.chain, TOTAL - 1
    steps, key = chain.steps, chain.key
    frozen, trained = ToyDenoiser(fixed), ToyDenoiser(weight)
    base = ToyDenoiser(jnp.asarray(BASE, weight.dtype))
    name, plus, option = name.partition("+")
    method, penalties = METHODS[name], []
    visited, predictions = [episode.noise], []

    if name == "score":
        steps, key = toy_steps(jnp.float64, eta=1.0), KEY

    def step(latents, prediction, i):
        mean, _ = SAMPLER.update(latents, prediction, steps[i])
        if key is None:
            return mean
        noise = jr.normal(jr.fold_in(key, i), latents.shape, latents.dtype)
        return mean + steps[i].noise_scale * noise

    for i in range(TOTAL):
        predictions.append(frozen(visited[i], i))
        visited.append(step(visited[i], predictions[i], i))

    def score(latents):
        return jnp.mean(toy_reward(toy_decode(latents, "none")))

    def predict(latents, i, at=None):
        at = visited[i] if at is None else at  # What the base model is asked about.
        prediction = trained(latents, i)
        charged = trained(at, i) if option == "stopped" else prediction
        penalties.append(jnp.mean((charged - base(at, i)) ** 2))
        return prediction

    def run(latents, first):
        for i in range(first, TOTAL):
            latents = step(latents, predict(latents, i), i)
        return score(latents)

    def redraw(key):
        noise = jr.normal(key, visited[0].shape, visited[0].dtype)
        noised = SAMPLER.add_noise(visited[TOTAL], noise, steps[last])
        return SAMPLER.update(noised, predict(noised, last, noised), steps[last])[0]

    match name:
        case "draft":
            total = run(episode.noise, 0)
        case "draft-2":
            total = run(visited[TOTAL - 2], TOTAL - 2)
        case "alignprop":
            first = TOTAL - int(method.draw(TOTAL, KEY))
            total = run(visited[first], first)
        case "refl":
            left = jr.randint(KEY, (), method.min_steps, method.max_steps + 1)
            i = TOTAL - int(left)
            prediction = predict(visited[i], i)
            total = score(SAMPLER.predict(visited[i], prediction, steps[i])[0])
        case "draft-lv":
            total = run(visited[last], last)
            total = total + sum(score(redraw(key)) for key in jr.split(KEY, 2))
            total = total / 3
        case "single":
            slope = jax.grad(score)(visited[TOTAL])
            x0s = [step(visited[last], predict(visited[last], last), last)]
            x0s += [redraw(key) for key in jr.split(KEY, 2)]
            total = sum(jnp.sum(slope * x0) for x0 in x0s) / 3
        case "score":
            rewards = toy_reward(toy_decode(visited[TOTAL], "none"))
            # The advantage of each of two images is over the other.
            advantages, total = rewards - rewards[::-1], 0.0
            for i in range(last):  # The last step adds no noise.
                mean, _ = SAMPLER.update(visited[i], predict(visited[i], i), steps[i])
                normalized = (visited[i + 1] - mean) / steps[i].noise_scale
                log_probs = -jnp.sum(normalized**2, axis=(1, 2, 3)) / 2
                total = total + jnp.mean(advantages * log_probs)
        case _:
            for i in method.indices(TOTAL, KEY).tolist():
                predictions[i] = predict(visited[i], i)
            latents = visited[0]
            for i in range(TOTAL):
                latents = step(latents, predictions[i], i)
            total = score(latents)
    if plus:
        total = total - (1.1 if option == "+" else 0.7) * sum(penalties) / len(
            penalties
        )
    return total


@pytest.mark.parametrize(
    ("name", "eta"),
    [(name, 0.0) for name in METHODS if name != "alignprop-gaussian"]
    + [(name, 1.0) for name in ("draft-2", "alignprop", "refl", "drtune+")],
)
def test_gradient_meets_finite_differences_in_float64(name, eta):
    with jax.enable_x64(True):
        weight = jnp.asarray(WEIGHT, jnp.float64)
        noise, sampler = toy_noise(dtype=jnp.float64), _Precise(SAMPLER.config)
        made = lambda weight: episode(weight, noise, eta=eta, sampler=sampler)
        value = lambda weight: METHODS[name](made(weight), KEY)
        (actual, _), gradient = jax.jit(jax.value_and_grad(value, has_aux=True))(weight)
        held = lambda w: _held(name, made(weight), weight, w)
        if not name.startswith(("single", "score")):  # Its value is the mean reward.
            np.testing.assert_allclose(actual, held(weight), rtol=1e-12)
        for axis, d in enumerate(1e-5 * jnp.eye(3)):
            numeric = (held(weight + d) - held(weight - d)) / 2e-5
            np.testing.assert_allclose(gradient[axis], numeric, rtol=1e-6)
