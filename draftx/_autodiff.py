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
    """`lax.stop_gradient` of every inexact array in a tree."""
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lax.stop_gradient, arrays), rest)


@jax.custom_vjp
def attach_gradient(
    values: Float[Array, " batch"],
    at: Float[Array, "batch ..."],
    gradient: Float[Array, "batch ..."],
) -> Float[Array, " batch"]:
    """`values`, one a row, known to have this `gradient` with respect to `at`."""
    del at, gradient
    return values


attach_gradient.defvjp(
    lambda values, at, gradient: (values, gradient),
    lambda gradient, d: (None, jax.vmap(jnp.multiply)(d, gradient), None),
)


def eager_gradient(
    fn: Callable[..., tuple[Float[Array, ""], Any]], *args: Any
) -> tuple[Float[Array, ""], Any]:
    """`fn(*args)`, its gradient taken at once instead of in the backward pass.

    Between the passes nothing is kept of the inside of `fn` but that gradient, and
    nothing is computed twice: for terms of a sum, one after the other under a scan,
    this needs the memory of one term and, unlike a checkpoint, no second forward pass.

    **Arguments:**

    - `fn`: Gives a scalar, and anything besides, which passes no gradient. It must not
        close over what is differentiated.
    - `args`: Gradients are taken only with respect to those arrays for which somebody
        asks: frozen weights cost nothing.
    """
    leaves, combine = _flatten(args)

    def call(*leaves: Array) -> tuple[Float[Array, ""], Any]:
        return fn(*combine(leaves))

    def forward(*primals):
        values, wanted = _values_and_wanted(primals)
        of_wanted = lambda chosen: call(*_replace(values, wanted, chosen))
        chosen = [values[i] for i in wanted]
        out, gradient = jax.value_and_grad(of_wanted, has_aux=True)(chosen)
        nothing: list[Array | None] = [None] * len(values)
        return out, _replace(nothing, wanted, gradient)

    def backward(gradient, cotangent):
        scale = cotangent[0]
        if _is_zero(scale):
            return (None,) * len(gradient)
        times = lambda g: None if g is None else scale.astype(g.dtype) * g
        return tuple(times(g) for g in gradient)

    with_gradient = jax.custom_vjp(call)
    with_gradient.defvjp(forward, backward, symbolic_zeros=True)
    value, aux = with_gradient(*leaves)
    return value, stop_gradient(aux)


def known_value(value: _Tree, fn: Callable[..., _Tree], *args: Any) -> _Tree:
    """`fn(*args)`, given its value: `fn` is called for its gradient alone.

    In a loop, the value can then be computed once, before it, while the gradient goes
    to `args` iteration by iteration: none as large as the value is carried along.

    **Arguments:**

    - `value`: A tree of arrays.
    - `fn`: Must not close over what is differentiated.
    - `args`: Differentiated where somebody asks, as in `eager_gradient`.
    """
    leaves, combine = _flatten(args)

    def call(value, *leaves: Array):
        del leaves
        return value

    def forward(value, *primals):
        values, wanted = _values_and_wanted(primals)
        is_wanted = tuple(i in wanted for i in range(len(values)))
        return jax.tree.map(lambda primal: primal.value, value), (values, is_wanted)

    def backward(residuals, cotangent):
        values, is_wanted = residuals
        wanted = [i for i, flag in enumerate(is_wanted) if flag]
        of_wanted = lambda chosen: fn(*combine(_replace(values, wanted, chosen)))
        _, pullback = jax.vjp(of_wanted, [values[i] for i in wanted])
        (gradient,) = pullback(_instantiate(cotangent))
        nothing: list[Array | None] = [None] * len(values)
        return (None, *_replace(nothing, wanted, gradient))

    known = jax.custom_vjp(call)
    known.defvjp(forward, backward, symbolic_zeros=True)
    return known(stop_gradient(value), *leaves)


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
