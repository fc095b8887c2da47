"""GEGLU against its definition, and its VJP against differences."""

import functools as ft
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import numpy as np
import pytest

from draftx.kernels import geglu, geglu_of_halves, geglu_reference

from ..helpers import assert_close


@ft.partial(jax.jit, static_argnums=0)
def _both(fn, x, d_out):
    out, vjp = jax.vjp(fn, x)
    return out, vjp(d_out)[0]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6,), jnp.float32), ((2, 3, 5, 14), jnp.float32), ((7, 10), jnp.bfloat16)],
)
def test_matches_reference(shape, dtype, getkey):
    x = 3 * jr.normal(getkey(), shape, dtype)
    d_out = jr.normal(getkey(), (*shape[:-1], shape[-1] // 2), dtype)
    # The definition in float32: autodiff of it in bfloat16 rounds in other places.
    wide = x.astype(jnp.float32), d_out.astype(jnp.float32)
    expected = jax.tree.map(lambda y: y.astype(dtype), _both(geglu_reference, *wide))
    # Products with values as large as ten.
    assert_close(_both(geglu, x, d_out), expected, scale=10)


def test_matches_python_math():
    gates = [-6.0, -1.5, -0.0, 0.3, 4.0]
    values = [1.0, -2.0, 3.0, 0.5, 1.0]
    expected = [
        v * g * (1 + math.erf(g / math.sqrt(2))) / 2
        for v, g in zip(values, gates, strict=True)
    ]
    assert_close(geglu(jnp.array(values + gates)), jnp.array(expected))


def test_gradient_against_finite_differences(getkey):
    with jax.enable_x64(True):
        x = 2 * jr.normal(getkey(), (3, 8), jnp.float64)
        assert_close(geglu(x), geglu_reference(x))
        jax.test_util.check_grads(jax.jit(geglu), (x,), order=1, modes=["rev"])
        halves = jnp.split(x, 2, axis=-1)
        jax.test_util.check_grads(
            jax.jit(geglu_of_halves), halves, order=1, modes=["rev"]
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_halves_are_gated_as_one_array_is(dtype, getkey):
    x = 3 * jr.normal(getkey(), (2, 5, 14), dtype)
    d_out = jr.normal(getkey(), (2, 5, 7), dtype)
    of_halves = lambda x: geglu_of_halves(*jnp.split(x, 2, axis=-1))
    assert_close(_both(of_halves, x, d_out), _both(geglu, x, d_out))


def test_extreme_gates_have_finite_gradients():
    x = jnp.array([1.0, 1.0, 1.0, -1e30, 0.0, 1e30])
    out, d_x = _both(geglu, x, jnp.ones(3))
    np.testing.assert_array_equal(out, [0, 0, jnp.float32(1e30)])
    np.testing.assert_array_equal(d_x, [0, 0, jnp.float32(1e30), 0, 0.5, 1])


def test_keeps_its_input_and_nothing_else():
    x = jnp.ones((3, 8), jnp.bfloat16)
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(geglu, x)[1], x))
    assert [(k.shape, k.dtype) for k in kept] == [(x.shape, x.dtype)]


def test_odd_features_are_named():
    with pytest.raises(ValueError, match=r"`x` must have an even .* \(2, 5\)"):
        geglu(jnp.ones((2, 5)))
