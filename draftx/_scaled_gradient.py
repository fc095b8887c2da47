"""Gradients of what is computed in float16, without underflow."""

import functools as ft
from collections.abc import Callable
from typing import Any, cast, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


_Call = TypeVar("_Call", bound=Callable[..., Any])

# The largest cotangent that a backward pass in float16 begins with is below 2 to the
# first of these; if it overflows, it is computed again with a smaller scale.
_EXPONENT = 4
_RETREAT = 8
_ATTEMPTS = 4


def scaled_gradient(fn: _Call) -> _Call:
    r"""Wraps a function so that its backward pass does not underflow in float16.

    The cotangent of its results is multiplied by a power of two that brings the
    largest number of it near 1, and the gradients of its arguments are divided by it,
    in float32: exactly what they were, had nothing been rounded to zero on the way.
    Where that overflows, the backward pass is computed again with less.

    Where no array among the arguments is float16 the function is called as it is.

    This takes the place of one *loss scale* for a whole program, which is a number to
    be tuned while training, and would not do here: gradients are also taken where no
    training is (`draftx.reward_gradient`, `draftx.doodl`), and taken at once inside of
    a forward pass (`eager_gradient`, the rewards of a few images at a time), which the
    scale of a loss never reaches; a chain of many steps has cotangents of many sizes,
    and only the decoder has those of single pixels, a millionth of the reward's. So
    each network finds its own scale, from nothing but the cotangent that it is given:
    there is no state, no step is lost to finding it, and to whatever clips, penalizes
    or sums gradients outside they look as in float32.

    **Arguments:**

    - `fn`: A function of trees of arrays and anything else. It must not close over
        what is differentiated. Gradients of arguments that are float16 themselves are
        rounded to float16, so what is trained should not be.

    **Returns:**

    The function. Where it is wrapped, float16 results are given as float32, which holds
    the same numbers, so that cotangents come back in float32 too.

    ??? cite

        [Mixed Precision Training](https://arxiv.org/abs/1710.03740), section 3.2.
    """

    @ft.wraps(fn)
    def wrapped(*args, **kwargs):
        if not _has_float16((args, kwargs)):
            return fn(*args, **kwargs)
        return _call(fn, (args, kwargs))

    return cast(_Call, wrapped)


@scaled_gradient
def scaled_call(module: Callable[..., Any], *args: Any) -> Any:
    """Calls a module, whose backward pass does not underflow: see `scaled_gradient`.

    **Arguments:**

    - `module`: Wrapped if it has a float16 array, or one of its arguments.
    - `args`: Of the call.
    """
    return module(*args)


def _has_float16(tree: Any) -> bool:
    return any(
        eqx.is_array(x) and x.dtype == jnp.float16 for x in jax.tree.leaves(tree)
    )


def _widened(tree: Any) -> Any:
    """Float16 arrays as float32 ones."""
    is_half = lambda x: eqx.is_array(x) and x.dtype == jnp.float16
    return jax.tree.map(lambda x: x.astype(jnp.float32) if is_half(x) else x, tree)


def _call(fn: Callable[..., Any], inputs: Any) -> Any:
    @eqx.filter_custom_vjp
    def call(inputs):
        args, kwargs = inputs
        return _widened(fn(*args, **kwargs))

    @call.def_fwd
    def _(perturbed, inputs):
        wanted, rest = eqx.partition(inputs, perturbed)

        def of_wanted(wanted):
            args, kwargs = eqx.combine(wanted, rest)
            return _widened(fn(*args, **kwargs))

        out, pullback = jax.vjp(of_wanted, wanted)
        return out, (pullback, jax.eval_shape(lambda: out))

    @call.def_bwd
    def _(residuals, cotangent, perturbed, inputs):
        del perturbed, inputs
        pullback, shapes = residuals
        fill = lambda x, d: jnp.zeros(x.shape, x.dtype) if d is None else d
        return _pull(pullback, jax.tree.map(fill, shapes, cotangent))

    return call(inputs)


def _pull(pullback: Callable[[Any], tuple[Any]], cotangent: Any) -> Any:
    """The pullback of a cotangent, scaled on the way."""
    sizes = [jnp.max(jnp.abs(d)) for d in jax.tree.leaves(cotangent)]
    largest = ft.reduce(jnp.maximum, [x.astype(jnp.float32) for x in sizes])
    # Nothing is gained by repeating what is not finite anyway.
    attempts = jnp.where(jnp.isfinite(largest), _ATTEMPTS, 1)

    def attempt(carry):
        index, _, _ = carry
        shift = _EXPONENT - _RETREAT * index - _exponent(largest)
        scale, unscale = _power_of_two(shift), _power_of_two(-shift)
        scaled = jax.tree.map(lambda d: d * scale.astype(d.dtype), cotangent)
        (gradient,) = pullback(scaled)
        undo = lambda g: (g.astype(unscale.dtype) * unscale).astype(g.dtype)
        gradient = jax.tree.map(undo, gradient)
        finite = [jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)]
        return index + 1, gradient, jnp.all(jnp.stack(finite))

    # A loop also for the first attempt, so that the network is compiled once.
    (shapes,) = eqx.filter_eval_shape(pullback, cotangent)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    first = (jnp.asarray(0), nothing, jnp.asarray(False))
    goes_on = lambda carry: ~carry[2] & (carry[0] < attempts)
    return lax.while_loop(goes_on, attempt, first)[1]


def _exponent(x: Float[Array, ""]) -> Int[Array, ""]:
    """The whole number above the logarithm to base 2; that of tiny ones is cut off."""
    _, exponent = jnp.frexp(x)
    return jnp.clip(exponent, -100, 100)


def _power_of_two(exponent: Int[Array, ""]) -> Float[Array, ""]:
    return jnp.ldexp(jnp.ones((), jnp.float32), exponent)
