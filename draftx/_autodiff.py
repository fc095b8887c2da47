"""What JAX's own transformations leave to be said about gradients."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float


_Tree = TypeVar("_Tree")


def stop_gradient(tree: _Tree) -> _Tree:
    """Stops the gradient of every inexact array in a tree."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lax.stop_gradient, arrays), rest)


@jax.custom_vjp
def attach_gradient(
    values: Float[Array, " batch"],
    at: Float[Array, "batch ..."],
    gradient: Float[Array, "batch ..."],
) -> Float[Array, " batch"]:
    """Gives `values`, `[batch]`, a known `gradient` with respect to `at`."""
    del at, gradient
    return values


attach_gradient.defvjp(
    lambda values, at, gradient: (values, gradient),
    lambda gradient, d: (None, jax.vmap(jnp.multiply)(d, gradient), None),
)


def eager_gradient(
    fn: Callable[..., tuple[Float[Array, ""], Any]], *args: Any
) -> tuple[Float[Array, ""], Any]:
    """Calls `fn(*args)` and takes its gradient at once, not in the backward pass.

    Between the passes nothing is kept of the inside of `fn` but that gradient, and
    nothing is computed twice: for terms of a sum, one after the other under a scan,
    this needs the memory of one term and, unlike a checkpoint, no second forward pass.
    It must be compiled together with its backward pass, as under
    `jax.jit(jax.grad(...))`: `args` are handed over too, until a compiler sees that
    nobody reads them.

    **Arguments:**

    - `fn`: Gives a scalar, and anything besides, which passes no gradient. It must not
        close over what is differentiated.
    - `args`: Gradients are taken only with respect to those arrays for which somebody
        asks: frozen weights cost nothing.
    """

    @eqx.filter_custom_vjp
    def call(args):
        return fn(*args)

    @call.def_fwd
    def _(perturbed, args):
        wanted, rest = eqx.partition(args, perturbed)
        of_wanted = lambda wanted: fn(*eqx.combine(wanted, rest))
        return jax.value_and_grad(of_wanted, has_aux=True)(wanted)

    @call.def_bwd
    def _(gradient, cotangent, perturbed, args):
        del perturbed, args
        scale, _ = cotangent
        times = lambda g: None if scale is None else scale.astype(g.dtype) * g
        return jax.tree.map(times, gradient)

    value, aux = call(args)
    return value, stop_gradient(aux)


def known_value(value: _Tree, fn: Callable[..., _Tree], *args: Any) -> _Tree:
    """Gives `fn(*args)`, whose value is known: `fn` is called for its gradient alone.

    In a loop, the value can then be computed once, before it, while the gradient goes
    to `args` iteration by iteration: none as large as the value is carried along.

    **Arguments:**

    - `value`: A tree of arrays.
    - `fn`: Must not close over what is differentiated.
    - `args`: Differentiated where somebody asks, as in `eager_gradient`.
    """

    @eqx.filter_custom_vjp
    def known(args, value):
        del args
        return value

    @known.def_fwd
    def _(perturbed, args, value):
        del perturbed, args
        return value, None

    @known.def_bwd
    def _(residuals, cotangent, perturbed, args, value):
        del residuals
        wanted, rest = eqx.partition(args, perturbed)
        _, pullback = jax.vjp(lambda wanted: fn(*eqx.combine(wanted, rest)), wanted)
        fill = lambda x, d: jnp.zeros_like(x) if d is None else d
        (gradient,) = pullback(jax.tree.map(fill, value, cotangent))
        return gradient

    return known(args, stop_gradient(value))
