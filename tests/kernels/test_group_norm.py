"""Group normalization against its definition, and its VJP against differences."""

import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import pytest

from draftx.kernels import (
    _group_norm_narrow,
    compiling_for,
    group_norm,
    group_norm_reference,
)

from ..helpers import assert_close


# Unequal axes, one channel a group, one pixel: `(shape, num_groups, silu, dtype)`.
_CASES = (
    ((2, 5, 3, 6), 3, False, jnp.float32),
    ((2, 5, 3, 6), 3, True, jnp.bfloat16),
    ((3, 2, 7, 4), 4, True, jnp.float32),
    ((3, 2, 7, 4), 4, False, jnp.bfloat16),
    ((1, 1, 1, 8), 2, True, jnp.float32),
)


def _problem(getkey, shape, dtype):
    x = 3 * jr.normal(getkey(), shape, dtype) + 1
    weight = 1 + jr.normal(getkey(), shape[-1:], dtype) / 4
    bias = jr.normal(getkey(), shape[-1:], dtype)
    return x, weight, bias


@ft.partial(jax.jit, static_argnums=0)
def _value_and_vjp(fn, args, cotangent):
    out, vjp = jax.vjp(fn, *args)
    return out, vjp(cotangent)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(("shape", "num_groups", "silu", "dtype"), _CASES)
def test_matches_reference(shape, num_groups, silu, dtype, platform, getkey):
    args = _problem(getkey, shape, dtype)
    kwargs = dict(num_groups=num_groups, epsilon=1e-5, silu=silu)
    cotangent = jr.normal(getkey(), shape, dtype)
    with compiling_for(platform):
        out, grads = _value_and_vjp(ft.partial(group_norm, **kwargs), args, cotangent)
    # The definition in float32: autodiff of it in bfloat16 rounds in other places.
    as_float32 = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    expected, expected_grads = _value_and_vjp(
        ft.partial(group_norm_reference, **kwargs),
        as_float32(args),
        as_float32(cotangent),
    )
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    assert_close(out, cast(expected))
    # Sums over batch, height and width: rounding grows with the square root.
    scale = (shape[0] * shape[1] * shape[2]) ** 0.5
    assert_close(grads, cast(expected_grads), scale=scale)


@pytest.mark.parametrize("silu", [False, True])
def test_gradient_against_finite_differences(silu, getkey):
    with jax.enable_x64(True):
        args = _problem(getkey, (2, 3, 2, 6), jnp.float64)
        op = ft.partial(group_norm, num_groups=3, epsilon=1e-5, silu=silu)
        assert op(*args).dtype == jnp.float64
        jax.test_util.check_grads(jax.jit(op), args, order=1, modes=["rev"])


@pytest.mark.parametrize("silu", [False, True])
def test_gradient_of_narrow_activations_against_finite_differences(silu, getkey):
    # What 16 bits go through, in 64, where differences can be taken.
    def value(x, weight, bias):
        return _group_norm_narrow.forward(x, weight, bias, 3, 1e-5, silu)

    @jax.custom_vjp
    def op(*args):
        return value(*args)[0]

    def forward(*args):
        out, mean, rstd = value(*args)
        return out, (*args, mean, rstd)

    def backward(residuals, d_out):
        return _group_norm_narrow.backward(3, silu, *residuals, d_out)

    op.defvjp(forward, backward)
    with jax.enable_x64(True):
        args = _problem(getkey, (2, 3, 2, 6), jnp.float64)
        expected = group_norm_reference(*args, num_groups=3, epsilon=1e-5, silu=silu)
        assert_close(op(*args), expected)
        jax.test_util.check_grads(jax.jit(op), args, order=1, modes=["rev"])


def test_mixed_dtypes_have_cotangents_of_their_own(getkey):
    x, weight, bias = _problem(getkey, (2, 3, 2, 6), jnp.float32)
    args = (x.astype(jnp.bfloat16), weight, bias)
    op = ft.partial(group_norm, num_groups=2, epsilon=1e-5)
    out, grads = _value_and_vjp(op, args, jnp.ones(x.shape, jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_offset_of_narrow_activations_costs_no_more_than_their_rounding(getkey):
    dtype = jnp.bfloat16
    x = (30 + jr.normal(getkey(), (2, 16, 16, 8))).astype(dtype)
    args = (x, jnp.ones(8, dtype), jnp.zeros(8, dtype))
    cotangent = jr.normal(getkey(), x.shape, dtype)
    out, grads = _value_and_vjp(
        ft.partial(group_norm, num_groups=2, epsilon=1e-5), args, cotangent
    )
    exact = [a.astype(jnp.float32) for a in args]
    expected, expected_grads = _value_and_vjp(
        ft.partial(group_norm_reference, num_groups=2, epsilon=1e-5),
        exact,
        cotangent.astype(jnp.float32),
    )
    assert_close(out, expected.astype(dtype))
    assert_close(grads[0], expected_grads[0].astype(dtype))


def test_offset_far_above_the_spread_loses_no_digits(getkey):
    # Statistics as E[x^2] - E[x]^2 would be all rounding here.
    x = jr.normal(getkey(), (1, 8, 8, 4))
    ones, zeros = jnp.ones(4), jnp.zeros(4)
    shifted = (x + 512.0) - 512.0  # `x`, to the digits that a sum with 512 leaves.
    op = jax.jit(ft.partial(group_norm, num_groups=2, epsilon=1e-5))
    assert_close(op(shifted + 512.0, ones, zeros), op(shifted, ones, zeros), scale=10)


def test_vmap_is_batching(getkey):
    x, weight, bias = _problem(getkey, (3, 2, 4, 6), jnp.float32)
    op = ft.partial(group_norm, num_groups=3, epsilon=1e-5, silu=True)
    one_at_a_time = jax.jit(jax.vmap(lambda xi: op(xi[None], weight, bias)[0]))(x)
    assert_close(one_at_a_time, jax.jit(op)(x, weight, bias))


def test_constant_group_is_its_bias_with_finite_gradient():
    x, bias = jnp.full((1, 2, 2, 4), 7.0), jnp.arange(4.0)
    op = lambda x: group_norm(x, jnp.ones(4), bias, num_groups=2, epsilon=1e-5)
    out, (d_x,) = _value_and_vjp(op, (x,), jnp.ones_like(x))
    assert_close(out, jnp.broadcast_to(bias, x.shape))
    assert jnp.all(jnp.isfinite(d_x))


def test_bad_num_groups_names_both_numbers(getkey):
    args = _problem(getkey, (1, 2, 2, 30), jnp.float32)
    text = "`num_groups` must divide .* num_groups=32, channels=30"
    with pytest.raises(ValueError, match=text):
        group_norm(*args, num_groups=32, epsilon=1e-5)


def test_keeps_its_arguments_and_two_scalars_a_group(getkey):
    args = _problem(getkey, (2, 3, 5, 6), jnp.bfloat16)
    op = ft.partial(group_norm, num_groups=2, epsilon=1e-5, silu=True)
    kept = jax.eval_shape(lambda *args: jax.vjp(op, *args)[1], *args)
    shapes = [(k.shape, k.dtype.name) for k in jax.tree.leaves(kept)]
    param, stat = ((6,), "bfloat16"), ((2, 2), "float32")
    assert sorted(shapes) == sorted(
        [((2, 3, 5, 6), "bfloat16"), param, param, stat, stat]
    )
