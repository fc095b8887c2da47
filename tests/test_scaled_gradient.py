"""The backward pass of what is computed in float16 neither underflows nor overflows."""

import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from draftx._autodiff import eager_gradient
from draftx._scaled_gradient import scaled_call, scaled_gradient

from .helpers import relative_error


def _network(weight, trained, x, *, gain=1.0):
    """Computes in the dtype of its weight, as all networks do."""
    low = x.astype(weight.dtype)
    hidden = jnp.tanh(low @ weight) * gain
    return hidden @ weight + hidden @ trained.astype(weight.dtype)


def _problem(getkey, dtype=jnp.float16):
    weight = jr.normal(getkey(), (32, 32)).astype(dtype) / 8
    trained, x = 0.1 * jr.normal(getkey(), (32, 32)), jr.normal(getkey(), (4, 32))
    return weight, trained, x


def _gradient(fn, weight, trained, x, *, scale=1.0, **options):
    def loss(trained, x):
        out = fn(weight, trained, x, **options).astype(jnp.float32)
        return scale * jnp.sum(jnp.sin(3 * out))

    return jax.jit(jax.grad(loss, (0, 1)))(trained, x)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-7, 1.0, 1e6])
def test_gradients_of_any_size_are_those_of_float32(getkey, scale):
    weight, trained, x = _problem(getkey)
    args = (trained, x)
    actual = _gradient(scaled_gradient(_network), weight, *args, scale=scale)
    wide = weight.astype(jnp.float32)
    expected = _gradient(_network, wide, *args, scale=scale)
    assert {g.dtype for g in actual} == {jnp.dtype("float32")}
    # A rounding to float16 is 5e-4.
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 3e-3
    if scale < 1e-8:  # What it would be otherwise.
        (plain, _) = _gradient(_network, weight, *args, scale=scale)
        assert not np.any(plain)


def test_the_scale_leaves_no_trace_where_none_is_needed(getkey):
    """It is a power of two: every rounding is the same."""
    problem = _problem(getkey)
    actual = _gradient(scaled_gradient(_network), *problem)
    expected = _gradient(_network, *problem)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("gain", [2.0**9, 2.0**11, 2.0**15])
def test_what_overflows_is_computed_again_with_less(getkey, gain):
    """The steepest have gradients that float16 cannot hold at the usual scale."""
    gain, x = jnp.asarray(gain, jnp.float16), jr.normal(getkey(), (4,)) * 1e-3
    steep = lambda gain, x: x.astype(gain.dtype) * gain
    loss = lambda fn: lambda x: jnp.sum(64 * fn(gain, x).astype(jnp.float32))
    actual = jax.grad(loss(scaled_gradient(steep)))(x)
    np.testing.assert_array_equal(actual, jnp.full(4, 64 * gain.astype(jnp.float32)))
    if gain >= 2.0**11:
        assert not np.any(np.isfinite(jax.grad(loss(steep))(x)))


@pytest.mark.parametrize("scale", [jnp.inf, jnp.nan])
def test_what_is_not_finite_stays_so(getkey, scale):
    problem = _problem(getkey)
    gradient = _gradient(scaled_gradient(_network), *problem, scale=scale)
    assert not np.all(np.isfinite(gradient[0]))


def test_a_gradient_of_zero_is_zero(getkey):
    for g in _gradient(scaled_gradient(_network), *_problem(getkey), scale=0.0):
        np.testing.assert_array_equal(g, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_other_dtypes_have_the_same_program(getkey, dtype):
    problem = _problem(getkey, dtype)
    program = lambda fn: str(
        jax.make_jaxpr(jax.grad(lambda *args: jnp.sum(fn(*args))))(*problem)
    )
    assert program(scaled_gradient(_network)) == program(_network)
    low = _problem(getkey)
    assert "while" in str(
        jax.make_jaxpr(
            jax.grad(lambda x: jnp.sum(scaled_gradient(_network)(*low[:2], x)))
        )(low[2])
    )


def test_values_are_the_same_in_float32(getkey):
    problem = _problem(getkey)
    out = scaled_call(_network, *problem)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, _network(*problem).astype(jnp.float32))


def test_it_works_inside_of_loops_checkpoints_and_eager_gradients(getkey):
    weight, trained, x = _problem(getkey)

    def loss(weight, trained):
        step = jax.checkpoint(
            lambda x, trained: scaled_call(_network, weight, trained, x)
        )
        end, _ = lax.scan(lambda x, _: (step(x, trained), None), x, length=3)

        def term(trained, x):
            return 1e-9 * jnp.sum(scaled_call(_network, weight, trained, x) ** 2), None

        terms = lax.map(lambda x: eager_gradient(term, trained, x[None])[0], x)
        return 1e-9 * jnp.sum(end) + jnp.sum(terms)

    gradient = jax.jit(jax.grad(loss, 1))
    actual, expected = (
        gradient(w, trained) for w in (weight, weight.astype(jnp.float32))
    )
    assert relative_error(actual, expected) < 3e-3
