"""Descent of what trainings here differ in, a gradient; its steps are compiled."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from .._compilation import compiled
from .._mesh import to_host
from ..finetuning.training import as_own, ascend, learning_rate, norm_of, Run


# From what is trained and the number of a step: what a row of the history is made of;
# what must be finite besides the gradient, or the step is not taken; and the gradient.
# Its arrays are those of a module.
Objective: TypeAlias = Callable[[Any, Int[Array, ""]], tuple[dict[str, Any], Any, Any]]


def descend(
    objective: Objective,
    trainable: Any,
    optimizer: optax.GradientTransformation,
    run: Run,
) -> Any:
    """Takes the steps of a training; gives the result of its run.

    **Arguments:**

    - `objective`: What is descended.
    - `trainable`: Arrays as they begin, which stay their user's.
    - `optimizer`: How.
    - `run`: Keeps what happens.
    """
    state = as_own(_State(trainable, optimizer.init(trainable)))
    training = _Training(objective, optimizer)

    def take_step(state: _State, step: int):
        state, metrics = _take_step(training, state, jnp.asarray(step))
        return state, to_host(metrics)

    plan = lambda state: _take_step.plan(training, state, jnp.asarray(0))
    return run.train(take_step, state, plan)


class _State(eqx.Module):
    """What a training changes."""

    trainable: Any
    opt_state: Any


class _Training(eqx.Module):
    """What it does not."""

    objective: Objective
    optimizer: optax.GradientTransformation = eqx.field(static=True)


# The state's arrays are given up: it is updated in place.
@compiled(donate="all-except-first")
def _take_step(
    training: _Training, state: _State, step: Int[Array, ""]
) -> tuple[_State, dict[str, Any]]:
    metrics, told, gradient = training.objective(state.trainable, step)
    norm = norm_of(gradient)
    is_finite = jnp.isfinite(norm)
    for array in jax.tree.leaves(told):
        is_finite &= jnp.all(jnp.isfinite(array))
    uphill = jax.tree.map(jnp.negative, gradient)
    trainable, opt_state = ascend(
        training.optimizer, uphill, state.opt_state, state.trainable, is_finite
    )
    metrics = metrics | {"gradient_norm": norm, "is_finite": is_finite}
    rate = learning_rate(opt_state)
    if rate is not None:
        metrics["learning_rate"] = rate
    return _State(trainable, opt_state), metrics
