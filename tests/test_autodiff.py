"""Gradients taken early, attached, and through loops with a traced start."""

import jax
import jax.extend as jex
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import jax.test_util
import numpy as np
import pytest

from draftx._autodiff import (
    attach_gradient,
    eager_gradient,
    known_value,
    stop_gradient,
)

from .helpers import assert_close


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _count(fn, *args, primitive):
    closed = jax.make_jaxpr(fn)(*args)
    return sum(e.primitive.name == primitive for e in _equations(closed.jaxpr))


def test_stop_gradient_leaves_all_but_floats_alone():
    tree = {"a": jnp.ones(2), "b": jnp.arange(2), "c": None, "d": "text"}
    stopped = stop_gradient(tree)
    assert jax.tree.structure(stopped) == jax.tree.structure(tree)
    np.testing.assert_array_equal(stopped["b"], tree["b"])
    grad = jax.grad(lambda x: jnp.sum(stop_gradient({"a": x})["a"] ** 2))(jnp.ones(2))
    assert jnp.all(grad == 0)


def _term(weights, x):
    y = jnp.tanh(weights["trained"] @ x) @ weights["frozen"]
    return jnp.sum(y**2), y


def _sum_of_terms(trained, frozen, xs, *, eager):
    def one(x):
        args = ({"trained": trained, "frozen": frozen}, x)
        value, _ = eager_gradient(_term, *args) if eager else _term(*args)
        return value

    return 3 * jnp.sum(lax.map(one, xs))


def test_eager_gradient_is_the_gradient(getkey):
    trained, frozen = jr.normal(getkey(), (2, 4, 4))
    xs = jr.normal(getkey(), (5, 4))
    grad = lambda eager: jax.jit(
        jax.value_and_grad(lambda w: _sum_of_terms(w, frozen, xs, eager=eager))
    )(trained)
    assert_close(grad(eager=True), grad(eager=False), scale=10.0)


def test_eager_gradient_computes_each_term_once(getkey):
    trained, frozen = jr.normal(getkey(), (2, 4, 4))
    xs = jr.normal(getkey(), (5, 4))
    grad = lambda w: jax.grad(lambda w: _sum_of_terms(w, frozen, xs, eager=True))(w)
    # Two products forward, two backward: none again, none for the frozen weight.
    assert _count(grad, trained, primitive="dot_general") == 4
    assert _count(grad, trained, primitive="tanh") == 1


def test_eager_gradient_keeps_no_argument_of_a_term(getkey):
    """What is stacked for the backward pass is the gradient of what is trained."""

    def total(trained, frozen, keys):
        # The terms' own arguments are made inside of the loop.
        term = lambda trained, x: (jnp.sum((trained + frozen @ x) ** 2), ())
        one = lambda key: eager_gradient(term, trained, jr.normal(key, (64, 64)))[0]
        return jnp.sum(lax.map(one, keys))

    def temporaries(num_terms):
        args = jnp.ones(()), jnp.ones((64, 64)), jr.split(getkey(), num_terms)
        compiled = jax.jit(jax.grad(total)).lower(*args).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(24) - temporaries(8) < 16 * 1024


def test_eager_gradient_takes_none_where_nobody_asks(getkey):
    trained, frozen = jr.normal(getkey(), (2, 4, 4))
    xs = jr.normal(getkey(), (5, 4))
    value = lambda w: _sum_of_terms(w, frozen, xs, eager=True)
    assert _count(value, trained, primitive="dot_general") == 2


def test_eager_gradient_of_an_unused_value_is_zero(getkey):
    def fn(w):
        _, aux = eager_gradient(_term, {"trained": w, "frozen": w}, w[0])
        return jnp.sum(aux)

    assert jnp.all(jax.grad(fn)(jr.normal(getkey(), (4, 4))) == 0)


def _product(trained, frozen, x):
    return {"out": jnp.tanh(trained @ x) @ frozen}


def _loop(trained, frozen, x, *, known):
    """A loop whose steps all need the same product."""
    value = _product(trained, frozen, x)

    @jax.checkpoint
    def step(state, trained, frozen, x, value):
        product = known_value(value, _product, trained, frozen, x) if known else value
        return jnp.sin(state + product["out"])

    state, _ = lax.scan(
        lambda state, _: (step(state, trained, frozen, x, value), None), x, length=4
    )
    return jnp.sum(state**2)


@pytest.mark.parametrize("argnums", [0, 2, (0, 1, 2)])
def test_known_value_has_the_gradient_of_its_function(getkey, argnums):
    args = (*jr.normal(getkey(), (2, 4, 4)), jr.normal(getkey(), (4,)))
    grad = lambda known: jax.jit(
        jax.value_and_grad(lambda *args: _loop(*args, known=known), argnums)
    )(*args)
    assert_close(grad(known=True), grad(known=False), scale=10.0)


def test_known_value_is_computed_once_without_a_gradient(getkey):
    args = (*jr.normal(getkey(), (2, 4, 4)), jr.normal(getkey(), (4,)))
    loop = lambda *args: _loop(*args, known=True)
    assert _count(loop, *args, primitive="tanh") == 1


def test_known_value_takes_its_gradient_out_of_the_loop(getkey):
    """What a backward loop carries is as large as what is trained, not as the value."""
    bias, x = jr.normal(getkey(), (1,)), jr.normal(getkey(), (512,))

    def total(bias, x, known):
        value = x + bias
        fn = lambda x, bias: x + bias

        def step(state, _):
            y = known_value(value, fn, x, bias) if known else value
            return state + jnp.sum(jnp.sin(y) * state), None

        return lax.scan(step, jnp.ones(()), length=3)[0]

    def carried(known):
        grad = jax.make_jaxpr(jax.grad(lambda bias: total(bias, x, known)))(bias)
        scan = [e for e in _equations(grad) if e.primitive.name == "scan"][-1]
        return max(v.aval.size for v in scan.outvars)  # It gives only what it carries.

    assert carried(known=False) == 512
    assert carried(known=True) == 1


def test_attached_gradient_weighs_each_row(getkey):
    at, gradient = jr.normal(getkey(), (2, 3, 2, 2))
    weights = jnp.asarray([1.0, -2.0, 0.0])
    loss = lambda at: jnp.sum(weights * attach_gradient(jnp.ones(3), at, gradient))
    value, d_at = jax.value_and_grad(loss)(at)
    assert value == -1
    assert_close(d_at, weights[:, None, None] * gradient)
