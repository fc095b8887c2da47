"""Layer normalization against its definition, and its VJP against differences."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import pytest

from draftx.kernels import compiling_for, layer_norm, layer_norm_reference

from ..helpers import assert_close


_op = ft.partial(layer_norm, epsilon=1e-3)
_reference = ft.partial(layer_norm_reference, epsilon=1e-3)


def _problem(getkey, shape, dtype):
    x = 3 * jr.normal(getkey(), shape, dtype) + 1
    weight = 1 + jr.normal(getkey(), shape[-1:], dtype) / 4
    return x, weight, jr.normal(getkey(), shape[-1:], dtype)


@ft.partial(jax.jit, static_argnums=0)
def _both(fn, args, d_out):
    out, vjp = jax.vjp(fn, *args)
    return out, vjp(d_out)


@pytest.mark.parametrize(
    ("shape", "dtype", "platform"),
    [
        ((7,), jnp.float32, "cpu"),
        ((2, 3, 5, 6), jnp.float32, "cpu"),
        ((5, 11), jnp.bfloat16, "cpu"),
        ((5, 11), jnp.bfloat16, "tpu"),
    ],
)
def test_matches_reference(shape, dtype, platform, getkey):
    args, d_out = _problem(getkey, shape, dtype), jr.normal(getkey(), shape, dtype)
    # The definition in float32: autodiff of it in bfloat16 rounds in other places.
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    expected = _both(_reference, wide(args), wide(d_out))
    expected = jax.tree.map(lambda x: x.astype(dtype), expected)
    # Sums over thirty rows.
    with compiling_for(platform):
        actual = _both(_op, args, d_out)
    assert_close(actual, expected, scale=30**0.5)


def test_gradient_against_finite_differences(getkey):
    with jax.enable_x64(True):
        args = _problem(getkey, (2, 3, 5), jnp.float64)
        assert_close(_op(*args), _reference(*args))
        jax.test_util.check_grads(jax.jit(_op), args, order=1, modes=["rev"])


def test_mixed_dtypes_have_cotangents_of_their_own(getkey):
    x, weight, bias = _problem(getkey, (3, 5), jnp.float32)
    d_out = jnp.ones(x.shape, jnp.bfloat16)
    out, grads = _both(_op, (x.astype(jnp.bfloat16), weight, bias), d_out)
    assert out.dtype == jnp.bfloat16
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_keeps_its_arguments_and_two_scalars_a_row(getkey):
    args = _problem(getkey, (2, 3, 5), jnp.bfloat16)
    kept = jax.eval_shape(lambda *args: jax.vjp(_op, *args)[1], *args)
    shapes = [(k.shape, k.dtype.name) for k in jax.tree.leaves(kept)]
    stat = ((2, 3, 1), "float32")
    assert sorted(shapes) == sorted(
        [((2, 3, 5), "bfloat16"), ((5,), "bfloat16"), ((5,), "bfloat16"), stat, stat]
    )


def test_offset_far_above_the_spread_loses_no_digits(getkey):
    # Statistics as E[x^2] - E[x]^2 would be all rounding here.
    x = jr.normal(getkey(), (5, 64))
    ones, zeros = jnp.ones(64), jnp.zeros(64)
    shifted = (x + 512.0) - 512.0  # `x`, to the digits that a sum with 512 leaves.
    op = jax.jit(lambda x: layer_norm(x, ones, zeros, epsilon=1e-5))
    assert_close(op(shifted + 512.0), op(shifted), scale=10)


def test_vmap_is_batching(getkey):
    x, weight, bias = _problem(getkey, (3, 4, 5), jnp.float32)
    one_at_a_time = jax.jit(jax.vmap(lambda xi: _op(xi, weight, bias)))(x)
    assert_close(one_at_a_time, jax.jit(_op)(x, weight, bias))
