"""The truncated chain against the loop it stands for, and what it keeps in memory."""

import equinox as eqx
import jax
import jax.extend as jex
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.diffusion import AbstractDenoiser, DDIM, run_chain, SchedulerConfig

from ..helpers import assert_close


_SAMPLER = DDIM(SchedulerConfig())
_TOTAL = 5


class _ToyDenoiser(AbstractDenoiser):
    """Depends on its weight, on the latents and on the step; no UNet."""

    weight: jax.Array

    def __call__(self, latents, index):
        scale = 2 - jnp.asarray(index).astype(jnp.float32) / 10
        return jnp.tanh(self.weight[None, None, None] * latents) * scale


class _PerfectDenoiser(AbstractDenoiser):
    """Knows the noise."""

    weight: jax.Array

    def __call__(self, latents, index):
        return self.weight


def _problem(getkey):
    latents, cotangent = jr.normal(getkey(), (2, 2, 3, 4, 3))
    return _ToyDenoiser(jnp.asarray([0.3, 0.5, -0.2])), latents, cotangent


def _unrolled(denoiser, steps, latents, k, key):
    """Algorithm 1 as a Python loop: no scan, no checkpoint."""
    for i in range(len(steps)):
        if 0 < i == len(steps) - k:
            latents = lax.stop_gradient(latents)
        prediction = denoiser(latents, i)
        if i < len(steps) - k:
            prediction = lax.stop_gradient(prediction)
        noise = None
        if key is not None:
            noise = jr.normal(jr.fold_in(key, i), latents.shape)
        latents = _SAMPLER.step(latents, prediction, steps[i], noise)
    return lax.stop_gradient(latents) if k == 0 else latents


def _loss(args, steps, cotangent, k, key=None, *, chain):
    denoiser, latents = args
    if chain is _unrolled:
        return jnp.sum(_unrolled(denoiser, steps, latents, k, key) * cotangent)
    out = run_chain(_SAMPLER, denoiser, steps, latents, truncation_steps=k, key=key)
    return jnp.sum(out * cotangent)


@pytest.mark.parametrize(
    ("eta", "k"),
    [(0.0, 0), (0.0, 1), (0.0, 3), (0.0, _TOTAL), (0.7, 3), (0.7, None)],
)
def test_value_and_gradient_match_unrolled_loop(eta, k, getkey):
    denoiser, latents, cotangent = _problem(getkey)
    steps = _SAMPLER.steps(_TOTAL, eta=eta)
    key = getkey() if eta > 0 else None
    grad = eqx.filter_jit(eqx.filter_value_and_grad(_loss))
    args = (denoiser, latents), steps, cotangent
    value, (d_denoiser, d_latents) = grad(*args, k, key, chain=run_chain)
    unrolled_k = _TOTAL if k is None else k
    expected, (d_denoiser_loop, d_latents_loop) = grad(
        *args, unrolled_k, key, chain=_unrolled
    )
    assert_close(value, expected, scale=10.0)
    assert_close(d_denoiser.weight, d_denoiser_loop.weight, scale=10.0)
    assert_close(d_latents, d_latents_loop, scale=10.0)
    # The noise that a chain starts from is reached by the whole chain only.
    assert jnp.all((d_latents == 0) == (unrolled_k < _TOTAL))
    assert jnp.all((d_denoiser.weight == 0) == (unrolled_k == 0))


def test_truncation_does_not_change_the_value(getkey):
    denoiser, latents, _ = _problem(getkey)
    steps, key = _SAMPLER.steps(_TOTAL, eta=1.0), getkey()
    run = eqx.filter_jit(run_chain)
    full = run(_SAMPLER, denoiser, steps, latents, key=key)
    for k in (0, 2):
        out = run(_SAMPLER, denoiser, steps, latents, truncation_steps=k, key=key)
        assert_close(out, full)


def test_perfect_denoiser_recovers_x0(getkey):
    sampler = DDIM(SchedulerConfig(set_alpha_to_one=True))
    steps = sampler.steps(10)
    x0, noise = jr.normal(getkey(), (2, 2, 3, 4, 3))
    noisy = sampler.add_noise(x0, noise, steps[0])
    recovered = eqx.filter_jit(run_chain)(
        sampler, _PerfectDenoiser(noise), steps, noisy
    )
    # The first step divides by the signal that is left, sqrt(alpha) = 0.1.
    assert_close(recovered, x0, scale=10.0)


# A number of frozen steps that is no other size here.
_LONG = 12


def _shapes(jaxpr):
    """The shapes of everything a program computes, its inner programs included."""
    for equation in jaxpr.eqns:
        yield from (out.aval.shape for out in equation.outvars)
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from _shapes(inner)


def _stacks(k, length, getkey):
    """Shapes of all arrays with one entry for each of `length` steps."""
    denoiser, latents, cotangent = _problem(getkey)
    steps = _SAMPLER.steps(_LONG)
    grad = lambda weight: eqx.filter_grad(
        lambda w: _loss(
            (_ToyDenoiser(w), latents), steps, cotangent, k, chain=run_chain
        )
    )(weight)
    closed = jax.make_jaxpr(grad)(denoiser.weight)
    return [s for s in _shapes(closed.jaxpr) if len(s) > 1 and s[0] == length], latents


def test_frozen_steps_keep_nothing(getkey):
    stacks, _ = _stacks(1, _LONG - 1, getkey)
    assert stacks == []


def test_differentiated_steps_keep_one_latent_each(getkey):
    stacks, latents = _stacks(5, 5, getkey)
    assert len(stacks) >= 1
    assert set(stacks) == {(5, *latents.shape)}
    # Once on the way out of the forward scan.
    assert len(stacks) == 1


def test_the_check_of_memory_sees_what_it_looks_for(getkey):
    # The same search over the gradient through all steps does find a stack.
    stacks, latents = _stacks(_LONG, _LONG, getkey)
    assert (_LONG, *latents.shape) in stacks


@pytest.mark.parametrize("checkpoint_steps", [True, False])
def test_checkpoints_do_not_change_the_gradient(checkpoint_steps, getkey):
    denoiser, latents, cotangent = _problem(getkey)
    steps = _SAMPLER.steps(_TOTAL)

    def loss(denoiser, **kwargs):
        out = run_chain(
            _SAMPLER, denoiser, steps, latents, truncation_steps=3, **kwargs
        )
        return jnp.sum(out * cotangent)

    grad = eqx.filter_jit(eqx.filter_grad(loss))
    actual = grad(denoiser, checkpoint_steps=checkpoint_steps)
    assert_close(actual, grad(denoiser), scale=10.0)


class _CountingDenoiser(AbstractDenoiser):
    """A toy that tells how often it is really evaluated."""

    toy: _ToyDenoiser
    seen: list = eqx.field(static=True)

    def __call__(self, latents, index):
        jax.debug.callback(lambda i: self.seen.append(int(i)), index)
        return self.toy(latents, index)


def test_traced_k_is_static_k_with_one_program(getkey):
    toy, latents, cotangent = _problem(getkey)
    steps, key = _SAMPLER.steps(_TOTAL, eta=0.5), getkey()
    seen: list[int] = []

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def traced(args, k):
        toy, latents = args
        denoiser = _CountingDenoiser(toy, seen)
        return _loss((denoiser, latents), steps, cotangent, k, key, chain=run_chain)

    static = eqx.filter_jit(eqx.filter_value_and_grad(_loss))
    for k in range(1, _TOTAL + 1):
        seen.clear()
        value, (d_toy, d_latents) = traced((toy, latents), jnp.asarray(k))
        jax.effects_barrier()
        # Time in proportion to K: every step once, the last K a second time.
        again = range(_TOTAL - k, _TOTAL)
        assert sorted(seen) == sorted([*range(_TOTAL), *again])
        expected, (d_static, d_latents_static) = static(
            (toy, latents), steps, cotangent, k, key, chain=run_chain
        )
        assert_close(value, expected, scale=10.0)
        assert_close(d_toy.weight, d_static.weight, scale=10.0)
        if k < _TOTAL:
            assert jnp.all(d_latents == 0)
        else:
            # A program that stops at step T - K for any K never passes it.
            assert jnp.any(d_latents_static != 0)
    assert traced._cached._cache_size() == 1
