"""What JAX's own transformations leave to be said about gradients."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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


def checkpointed_fori_loop(
    lower: Int[Array, ""],
    upper: int,
    body: Callable[..., _Tree],
    state: _Tree,
    *args: Any,
) -> _Tree:
    """`lax.fori_loop` with a traced start that reverse mode can pass through.

    The backward pass runs as many iterations as the forward pass did, computing each
    again from the state it began with: `upper` states are kept, whatever `lower` is.

    **Arguments:**

    - `lower`, `upper`: First index, and the one after the last.
    - `body`: `body(index, state, *args)` gives the next state. It must not close over
        what is differentiated.
    - `state`: An array, or a tree of arrays.
    - `args`: Differentiated where somebody asks, as in `eager_gradient`.
    """
    leaves, combine = _flatten(args)

    def step(index, state, leaves):
        return body(index, state, *combine(leaves))

    def call(lower, state, *leaves):
        return lax.fori_loop(lower, upper, lambda i, x: step(i, x, leaves), state)

    def forward(lower, state, *primals):
        values, wanted = _values_and_wanted(primals)
        state = jax.tree.map(lambda primal: primal.value, state)
        kept = jax.tree.map(lambda x: jnp.zeros((upper, *x.shape), x.dtype), state)

        def keep_and_step(i, carry):
            state, kept = carry
            kept = jax.tree.map(lambda all, x: all.at[i].set(x), kept, state)
            return step(i, state, values), kept

        state, kept = lax.fori_loop(lower.value, upper, keep_and_step, (state, kept))
        is_wanted = [i in wanted for i in range(len(values))]
        return state, (lower.value, kept, values, tuple(is_wanted))

    def backward(residuals, cotangent):
        lower, kept, values, is_wanted = residuals
        wanted = [i for i, flag in enumerate(is_wanted) if flag]
        if all(map(_is_zero, jax.tree.leaves(cotangent, is_leaf=_is_zero))):
            return (None,) * (2 + len(values))
        cotangent = _instantiate(cotangent)

        def back(i, carry):
            cotangent, total = carry
            index = upper - 1 - i
            of_wanted = lambda state, chosen: step(
                index, state, _replace(values, wanted, chosen)
            )
            chosen = [values[i] for i in wanted]
            before = jax.tree.map(lambda all: all[index], kept)
            _, pullback = jax.vjp(of_wanted, before, chosen)
            cotangent, gradient = pullback(cotangent)
            return cotangent, jax.tree.map(jnp.add, total, gradient)

        zeros = [jnp.zeros_like(values[i]) for i in wanted]
        cotangent, total = lax.fori_loop(0, upper - lower, back, (cotangent, zeros))
        nothing: list[Array | None] = [None] * len(values)
        return (None, cotangent, *_replace(nothing, wanted, total))

    loop = jax.custom_vjp(call)
    loop.defvjp(forward, backward, symbolic_zeros=True)
    return loop(lower, state, *leaves)


def _is_zero(cotangent: Any) -> bool:
    return isinstance(cotangent, jax.custom_derivatives.SymbolicZero)


def _instantiate(cotangents: Any) -> Any:
    """A tree of cotangents with arrays of zeros where they are known to be zero."""
    fill = lambda d: jnp.zeros(d.shape, d.dtype) if _is_zero(d) else d
    return jax.tree.map(fill, cotangents, is_leaf=_is_zero)


def _flatten(tree: Any) -> tuple[list[Array], Callable[[Any], Any]]:
    """The arrays of a tree, and the way back."""
    arrays, static = eqx.partition(tree, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    return leaves, lambda leaves: eqx.combine(
        jax.tree.unflatten(treedef, leaves), static
    )


def _values_and_wanted(primals) -> tuple[list[Array], list[int]]:
    """The values, and the indices of those whose gradient somebody asks for."""
    values = [primal.value for primal in primals]
    wanted = [
        i
        for i, primal in enumerate(primals)
        if primal.perturbed and jnp.issubdtype(primal.value.dtype, jnp.inexact)
    ]
    return values, wanted


def _replace(values: list, indices: list[int], new) -> list:
    """`values` with other values at `indices`."""
    values = list(values)
    for i, value in zip(indices, new, strict=True):
        values[i] = value
    return values
