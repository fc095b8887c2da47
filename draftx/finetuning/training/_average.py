"""The average of what is trained over its updates, kept in the optimizer's state."""

import functools as ft
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ..._checks import within
from ..._custom_types import RealLike
from ...kernels import at_least_float32
from ._optimizer import as_optimizer, Optimizer


class AverageState(NamedTuple):
    """What `with_ema` keeps.

    - `average`: Of the arrays, in float32 or better.
    - `num_updates`: Until now.
    - `inner`: The state of the optimizer itself.
    """

    average: Any
    num_updates: Int[Array, ""]
    inner: Any


def with_ema(
    optimizer: Optimizer, decay: RealLike = 0.999
) -> optax.GradientTransformation:
    r"""Wraps an optimizer so that the average of what it trains is kept besides.

    The exponential moving average of the arrays after each update,

    $$a_n = d_n\, a_{n-1} + (1 - d_n)\, \theta_n, \qquad
      d_n = \min\Bigl(d, \frac{n}{n + 9}\Bigr) \text{ and } d_1 = 0,$$

    as diffusers has it. `draftx.finetune` and `draftx.finetune_in_rounds` train as
    they would without, but measure, show and return the average. It is a part of the
    optimizer's state: saved with it, and gone on with.

    Where an optimizer moves nothing it counts as no update: the steps that
    `optax.MultiSteps` only gathers gradients of, inside or outside of this, and those
    that are left out because something is not finite.

    The same object for the same arguments, so that nothing is compiled again.

    **Arguments:**

    - `optimizer`: Any of optax.
    - `decay`: $d$, at least 0 and below 1: about $1 / (1 - d)$ updates count.

    ??? cite

        [Acceleration of stochastic approximation by averaging](
        https://doi.org/10.1137/0330046); the warm-up of the decay is that of
        `diffusers.training_utils.EMAModel`.
    """
    return _cached(as_optimizer(optimizer), within("decay", decay, "[0, 1)"))


@ft.lru_cache
def _cached(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        # A copy: a step may give up the arrays that it was handed.
        average = jax.tree.map(
            lambda x: jnp.array(x, at_least_float32(x.dtype), copy=True), params
        )
        return AverageState(average, jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError(
                "`params` must be given to `update` of an optimizer that averages "
                "them; got None."
            )
        updates, inner = optimizer.update(updates, state.inner, params)
        moved = jnp.stack([jnp.any(x != 0) for x in jax.tree.leaves(updates)])
        count = state.num_updates + jnp.any(moved).astype(state.num_updates.dtype)
        weight = jnp.where(count > state.num_updates, 1 - _decay(count, decay), 0.0)
        # As the arrays will be, rounded to what they are kept in.
        after = optax.apply_updates(params, updates)

        def mix(average: Array, x: Array) -> Array:
            return average + weight.astype(average.dtype) * (x - average)

        average = jax.tree.map(
            lambda a, x: mix(a, x.astype(a.dtype)), state.average, after
        )
        return updates, AverageState(average, count, inner)

    return optax.GradientTransformation(init, update)


def _decay(count: Int[Array, ""], decay: float) -> Float[Array, ""]:
    n = count.astype(jnp.float32)
    rising = jnp.where(count > 1, n / (n + 9), 0.0)
    return jnp.minimum(jnp.float32(decay), rising)


def averaged(opt_state: Any, trainable: Any) -> Any:
    """Finds the average of what is trained in the state of an optimizer.

    **Arguments:**

    - `opt_state`: Of any optimizer, whether or not it keeps one.
    - `trainable`: The arrays as they are, for what has no average.

    **Returns:**

    As `trainable`, in its types.
    """
    is_average = lambda node: isinstance(node, AverageState)
    is_masked = lambda node: isinstance(node, optax.MaskedNode)
    for node in jax.tree.leaves(opt_state, is_leaf=is_average):
        if not is_average(node):
            continue
        # What another optimizer trains (`optax.masked`, `optax.partition`) stays.
        trainable = jax.tree.map(
            lambda a, x: x if is_masked(a) else a.astype(x.dtype),
            node.average,
            trainable,
            is_leaf=is_masked,
        )
    return trainable
