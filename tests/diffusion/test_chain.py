"""The chain against Algorithm 1 by hand, and what it keeps in memory."""

import equinox as eqx
import jax
import jax.extend as jex
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import pytest

from draftx.diffusion import (
    AbstractDenoiser,
    AbstractStepCost,
    Ancestral,
    Chain,
    DDIM,
    Euler,
    record,
    run,
    run_truncated,
    SchedulerConfig,
    step_noise,
)

from ..helpers import assert_close
from ..toys import AdamsBashforth, config, ToyDenoiser


_TOTAL = 5
# With their eta. Euler's first latents are not the noise that it starts from.
_SAMPLERS = {
    "ddim": (DDIM(SchedulerConfig()), 0.0),
    "noisy_ddim": (DDIM(SchedulerConfig()), 0.7),
    "ancestral": (Ancestral(SchedulerConfig()), 0.0),
    "euler": (Euler(config(timestep_spacing="trailing")), 0.0),
    "with_memory": (AdamsBashforth(), 0.0),
}


def _chain(name, denoiser, key, *, total=_TOTAL, cost=None):
    sampler, eta = _SAMPLERS[name]
    key = key if sampler.is_random(eta) else None
    return Chain(sampler, denoiser, sampler.steps(total, eta=eta), key, cost)


def _problem(getkey):
    noise, cotangent = jr.normal(getkey(), (2, 2, 3, 4, 3))
    return ToyDenoiser(jnp.asarray([0.3, 0.5, -0.2])), noise, cotangent


class _Perfect(AbstractDenoiser):
    """Knows the noise."""

    noise: jax.Array

    def __call__(self, latents, index):
        return self.noise


def algorithm_1(name, denoiser, x_T, K, key):
    """Algorithm 1 of DRaFT as it is printed: a loop over x_t with one stop_gradient.

    With the sampler's formula for a step, which is tested elsewhere; no scan and no
    checkpoint.
    """
    sampler, eta = _SAMPLERS[name]
    steps = sampler.steps(_TOTAL, eta=eta)
    x_t = sampler.start(x_T, steps)
    memory = sampler.memory(x_t)
    for i, t in enumerate(range(_TOTAL, 0, -1)):
        if t == K < _TOTAL:
            x_t, memory = lax.stop_gradient((x_t, memory))
        theta = denoiser if t <= K else lax.stop_gradient(denoiser)
        prediction = theta(x_t, i)
        mean, memory = sampler.update(x_t, prediction, steps[i], memory)
        x_t = mean
        if sampler.is_random(eta):
            z = jr.normal(jr.fold_in(key, i), x_T.shape)
            x_t = mean + steps.noise_scale[i] * z
    return x_t if K > 0 else lax.stop_gradient(x_t)


def _grad(sample):
    """The compiled value and gradient of a weighted sum of samples."""

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(args, cotangent, key):
        return jnp.sum(sample(*args, key) * cotangent)

    return loss


@pytest.mark.parametrize(
    ("name", "k"),
    [
        *[("ddim", k) for k in (0, 1, 3, _TOTAL)],
        *[("noisy_ddim", k) for k in (3, None)],
        ("ancestral", 3),
        *[("euler", k) for k in (2, None)],
        *[("with_memory", k) for k in (0, 1, 3, None)],
    ],
)
def test_truncated_chain_is_algorithm_1(name, k, getkey):
    denoiser, noise, cotangent = _problem(getkey)
    in_full = _TOTAL if k is None else k
    by_hand = _grad(lambda d, x, key: algorithm_1(name, d, x, in_full, key))
    ours = _grad(lambda d, x, key: run_truncated(_chain(name, d, key), x, k).latents)
    args = (denoiser, noise), cotangent, getkey()
    value, (d_denoiser, d_noise) = ours(*args)
    expected = by_hand(*args)
    assert_close((value, (d_denoiser, d_noise)), expected, scale=10.0)
    # The noise that a chain starts from is reached by the whole chain only.
    assert jnp.all((d_noise == 0) == (in_full < _TOTAL))
    assert jnp.all((d_denoiser.weight == 0) == (in_full == 0))


@pytest.mark.parametrize("name", ["noisy_ddim", "with_memory"])
def test_truncation_does_not_change_the_value(name, getkey):
    denoiser, noise, _ = _problem(getkey)
    chain = _chain(name, denoiser, getkey())
    sample = eqx.filter_jit(run_truncated)
    full = sample(chain, noise)
    for k in (0, 2):
        assert_close(sample(chain, noise, k), full)


@pytest.mark.parametrize("name", ["noisy_ddim", "ancestral", "euler", "with_memory"])
def test_a_recorded_chain_can_be_taken_up_anywhere(name, getkey):
    denoiser, noise, _ = _problem(getkey)
    chain = _chain(name, denoiser, getkey())
    path = eqx.filter_jit(record)(chain, noise)
    assert path.latents().shape == (_TOTAL + 1, *noise.shape)
    assert_close(path.latents()[0], chain.sampler.start(noise, chain.steps))
    assert_close(path.end, eqx.filter_jit(run_truncated)(chain, noise))
    # With both ends traced there is one program for all steps.
    go_on = eqx.filter_jit(run)
    for i in range(_TOTAL):
        before = jax.tree.map(lambda x, i=i: x[i], path.states)
        prediction = jax.tree.map(lambda x, i=i: x[i], path.predictions)
        assert_close(denoiser(before.latents, jnp.asarray(i)), prediction.output)
        after = chain.advance(before, prediction, jnp.asarray(i))
        assert_close(after.latents, path.latents()[i + 1])
        end = go_on(chain, before, jnp.asarray(i), jnp.asarray(_TOTAL))
        assert_close(end, path.end)


def test_a_record_is_a_constant(getkey):
    denoiser, noise, _ = _problem(getkey)

    def loss(args):
        denoiser, noise = args
        path = record(_chain("with_memory", denoiser, None), noise)
        arrays = jax.tree.leaves(path)
        return sum(jnp.sum(x) for x in arrays)

    gradients = jax.tree.leaves(
        eqx.filter_jit(eqx.filter_grad(loss))((denoiser, noise))
    )
    assert len(gradients) == 2
    assert not any(jnp.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("name", ["noisy_ddim", "with_memory"])
def test_parts_of_a_chain_make_the_whole(name, getkey):
    denoiser, noise, _ = _problem(getkey)
    chain = _chain(name, denoiser, getkey())
    go_on = eqx.filter_jit(run)
    for checkpoint in (False, True):
        middle = go_on(chain, chain.begin(noise), 0, 2, checkpoint=checkpoint)
        last_but_one = go_on(chain, middle, 2, 4)
        end = go_on(chain, last_but_one, 4, 5, checkpoint=checkpoint)
        assert_close(end, go_on(chain, chain.begin(noise), 0, 5))
        assert_close(go_on(chain, end, 5, 5), end)


def test_noise_is_that_of_the_key(getkey):
    denoiser, noise, _ = _problem(getkey)
    key = getkey()
    chain = _chain("ancestral", denoiser, key)
    quiet = _chain("ancestral", denoiser, None)
    index = jnp.asarray(2)
    state = chain.state(noise)
    added = chain.step(state, index)[0].latents - quiet.step(state, index)[0].latents
    z = step_noise(key, index, noise)
    assert_close(added, chain.steps.noise_scale[2] * z)
    assert_close(z, jr.normal(jr.fold_in(key, 2), noise.shape))


@pytest.mark.parametrize("sampler", [DDIM, Ancestral, Euler])
def test_perfect_denoiser_recovers_x0(sampler, getkey):
    sampler = sampler(SchedulerConfig(set_alpha_to_one=True))
    x0, noise = jr.normal(getkey(), (2, 2, 3, 4, 3))
    chain = Chain(sampler, _Perfect(noise), sampler.steps(10, 0.0))
    state = chain.noised(x0, noise, jnp.asarray(0))
    if not sampler.is_random(0.0):
        end = eqx.filter_jit(run)(chain, state, 0, 10)
        # The first step divides by the signal that is left, sqrt(alpha) = 0.1.
        assert_close(end.latents, x0, scale=10.0)
    for index in map(jnp.asarray, (0, 6, 9)):
        state = chain.noised(x0, noise, index)
        there = chain.jump(state, chain.predict(state, index), index)
        assert_close(there.latents, x0, scale=10.0)


class _Leaving(AbstractStepCost):
    """Charges the square of a prediction, times one plus the index."""

    def __call__(self, denoiser, latents, output, index):
        return jnp.sum(output**2, axis=(1, 2, 3)) * (1 + index.astype(jnp.float32))


@pytest.mark.parametrize("k", [0, 1, 3, _TOTAL])
def test_differentiated_steps_are_charged(k, getkey):
    denoiser, noise, _ = _problem(getkey)

    def mean_charge(denoiser):
        chain = _chain("ddim", denoiser, None, cost=_Leaving())
        end = run_truncated(chain, noise, k)
        return end.charge.mean(), end.charge

    def by_hand(denoiser):
        chain = _chain("ddim", denoiser, None)
        state, total = chain.begin(noise), 0.0
        for i in range(_TOTAL):
            if i == _TOTAL - k:
                state = lax.stop_gradient(state)
            following, prediction = chain.step(state, jnp.asarray(i))
            if i >= _TOTAL - k:
                squares = jnp.sum(prediction.output**2, axis=(1, 2, 3))
                total = total + squares * (1 + i)
            state = following
        return jnp.mean(total) / max(k, 1) if k else 0 * jnp.sum(denoiser.weight)

    grad = lambda f, **options: eqx.filter_jit(eqx.filter_value_and_grad(f, **options))
    (value, charge), gradient = grad(mean_charge, has_aux=True)(denoiser)
    assert float(charge.count) == k
    assert charge.total.shape == noise.shape[:1]
    assert_close((value, gradient), grad(by_hand)(denoiser), scale=10.0)


# A number of frozen steps that is no other size here.
_LONG = 12


def _shapes(jaxpr):
    """The shapes of everything a program computes, its inner programs included."""
    for equation in jaxpr.eqns:
        yield from (out.aval.shape for out in equation.outvars)
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from _shapes(inner)


def _stacks(k, length, getkey, name="ddim"):
    """Shapes of all arrays with one entry for each of `length` steps."""
    denoiser, noise, cotangent = _problem(getkey)

    def loss(weight):
        chain = _chain(name, ToyDenoiser(weight), getkey(), total=_LONG)
        return jnp.sum(run_truncated(chain, noise, k).latents * cotangent)

    closed = jax.make_jaxpr(jax.grad(loss))(denoiser.weight)
    return [s for s in _shapes(closed.jaxpr) if len(s) > 1 and s[0] == length], noise


@pytest.mark.parametrize("name", ["ddim", "ancestral", "with_memory"])
def test_frozen_steps_keep_nothing(name, getkey):
    stacks, _ = _stacks(1, _LONG - 1, getkey, name)
    assert stacks == []


# Of the noise remembered a step is a linear function: its value is not needed again.
@pytest.mark.parametrize("name", ["ddim", "with_memory"])
def test_differentiated_steps_keep_one_latent_each(name, getkey):
    stacks, noise = _stacks(5, 5, getkey, name)
    assert set(stacks) == {(5, *noise.shape)}
    # Once on the way out of the forward loop.
    assert len(stacks) == 1


def test_the_check_of_memory_sees_what_it_looks_for(getkey):
    # The same search over the gradient through all steps does find a stack.
    stacks, noise = _stacks(_LONG, _LONG, getkey)
    assert (_LONG, *noise.shape) in stacks


def test_checkpoints_do_not_change_the_gradient(getkey):
    denoiser, noise, cotangent = _problem(getkey)

    def grad(checkpoint):
        def sample(denoiser, noise, key):
            chain = _chain("with_memory", denoiser, key)
            return run_truncated(chain, noise, 3, checkpoint=checkpoint).latents

        return _grad(sample)((denoiser, noise), cotangent, None)

    assert_close(grad(True), grad(False), scale=10.0)


class _Counting(AbstractDenoiser):
    """A toy that tells how often it is really evaluated."""

    toy: ToyDenoiser
    seen: list = eqx.field(static=True)

    def __call__(self, latents, index):
        jax.debug.callback(lambda i: self.seen.append(int(i)), index)
        return self.toy(latents, index)


@pytest.mark.parametrize(("k", "checkpoint"), [(1, True), (3, True), (3, False)])
def test_only_what_is_differentiated_is_computed_twice(k, checkpoint, getkey):
    toy, noise, cotangent = _problem(getkey)
    seen: list[int] = []

    def sample(toy, noise, key):
        chain = _chain("ddim", _Counting(toy, seen), key)
        return run_truncated(chain, noise, k, checkpoint=checkpoint).latents

    jax.block_until_ready(_grad(sample)((toy, noise), cotangent, None))
    jax.effects_barrier()
    again = range(_TOTAL - k, _TOTAL) if checkpoint else ()
    assert sorted(seen) == sorted([*range(_TOTAL), *again])
