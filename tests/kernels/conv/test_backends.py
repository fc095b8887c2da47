"""Convolution against XLA's own, values and both gradients."""

import functools as ft

import jax
import jax.extend as jex
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import pytest

from draftx.kernels import conv2d, conv2d_reference

from ...helpers import assert_close


# Height, width, kernel, stride, padding: many pixels and few, every layer's kind.
_CASES = [
    (8, 6, 3, 1, (1, 1)),
    (8, 6, 3, 2, (1, 1)),
    (7, 9, 3, 2, (1, 1)),
    (8, 6, 3, 2, (0, 1)),
    (8, 6, 1, 1, (0, 0)),
    (9, 7, 4, 3, (2, 0)),
    (16, 16, 8, 4, (0, 0)),
    (2, 2, 3, 1, (1, 1)),
    (3, 4, 3, 2, (1, 1)),
    (5, 5, 3, 2, (0, 1)),
]


def _problem(case, getkey, dtype=jnp.float32):
    height, width, size, stride, padding = case
    x = jr.normal(getkey(), (2, height, width, 3), dtype)
    weight = jr.normal(getkey(), (size, size, 3, 5), dtype)
    return x, weight, dict(stride=stride, padding=padding)


def _value_and_gradients(conv, x, weight, options):
    def loss(x, weight):
        y = conv(x, weight, **options)
        return jnp.sum(
            y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        ), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        x, weight
    )
    return y, gradients


@pytest.mark.parametrize("case", _CASES)
def test_values_and_gradients_are_those_of_the_definition(case, getkey):
    problem = _problem(case, getkey)
    actual = _value_and_gradients(conv2d, *problem)
    assert_close(actual, _value_and_gradients(conv2d_reference, *problem), scale=10.0)


@pytest.mark.parametrize("case", [_CASES[2], _CASES[3]])
@pytest.mark.parametrize("implementation", ["mirrored", "patches", "reference"])
def test_every_backend_is_the_definition_at_any_size(implementation, case, getkey):
    problem = _problem(case, getkey)
    named = ft.partial(conv2d, implementation=implementation)
    actual = _value_and_gradients(named, *problem)
    assert_close(actual, _value_and_gradients(conv2d_reference, *problem), scale=10.0)


@pytest.mark.parametrize("case", [_CASES[3], _CASES[8]])
def test_gradients_meet_finite_differences_in_float64(case, getkey):
    with jax.enable_x64(True):
        x, weight, options = _problem(case, getkey, jnp.float64)
        call = jax.jit(lambda x, weight: conv2d(x, weight, **options))
        jax.test_util.check_grads(call, (x, weight), 1, modes=["rev"])


@pytest.mark.parametrize("case", [_CASES[1], _CASES[7]])
def test_bfloat16_keeps_its_dtype(case, getkey):
    x, weight, options = _problem(case, getkey, jnp.bfloat16)
    actual = _value_and_gradients(conv2d, x, weight, options)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype("bfloat16")}
    expected = _value_and_gradients(conv2d_reference, x, weight, options)
    assert_close(actual, expected, scale=20.0)


def _primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from _primitives(inner)


def test_nothing_is_kept_or_computed_for_a_frozen_weight(getkey):
    x, weight, options = _problem(_CASES[0], getkey)
    _, pullback = jax.vjp(lambda x: conv2d(x, weight, **options), x)
    kept = [leaf.shape for leaf in jax.tree.leaves(pullback)]
    assert x.shape not in kept
    grad = jax.grad(lambda x: jnp.sum(conv2d(x, weight, **options)))
    names = list(_primitives(jax.make_jaxpr(grad)(x).jaxpr))
    assert names.count("conv_general_dilated") == 2
    assert names.count("dot_general") == 0
