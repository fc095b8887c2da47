"""The programs of training in rounds: drawing samples, and learning from them."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..._compilation import compiled
from ...diffusion import record
from ...episodes import make_episode, Memory, Task
from ...pipeline import divided, Pipeline
from ..training import ascend, learning_rate, norm_of
from ._round_method import AbstractRoundMethod, Rollout
from ._updates import Schedule


class RoundState(eqx.Module):
    """What training in rounds changes: the adapter, the optimizer's state, and what
    the method learns besides."""

    trainable: Pipeline
    opt_state: Any
    learned: Any


class Progress(eqx.Module):
    """What is saved between rounds: their state, and what a method remembers, which is
    on the host."""

    state: RoundState
    remembered: Any

    @property
    def trainable(self) -> Pipeline:
        """The adapter."""
        return self.state.trainable

    @property
    def opt_state(self) -> Any:
        """Of the optimizer."""
        return self.state.opt_state


class Rounds(eqx.Module):
    """Holds what the rounds do not change: the task without what is trained, how it is
    learned from, and what is constant of what the method learns."""

    task: Task
    method: AbstractRoundMethod
    constant: Any
    times: Int[Array, " trained"]
    optimizer: optax.GradientTransformation = eqx.field(static=True)
    schedule: Schedule = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)


@compiled()
def collect(
    rounds: Rounds, trainable: Pipeline, key: PRNGKeyArray
) -> tuple[Rollout, Int[Array, " batch"], dict[str, Float[Array, " batch"]]]:
    """Draws rows and noise, runs the chain, scores what comes out.

    Gives the images, their rows, and the components of their rewards.
    """
    task = rounds.task
    pipeline = eqx.combine(trainable, task.pipeline)
    prompt_key, latents_key, noise_key = jr.split(jr.fold_in(key, 0), 3)
    rows = jr.randint(prompt_key, rounds.shape[:1], 0, len(task))
    latents = jr.normal(latents_key, rounds.shape, jnp.float32)
    batch = divided(task.batch(latents, noise_key, rows), rounds.mesh)
    # Nothing is differentiated here, so nothing is to be computed again.
    memory = Memory("none", task.memory.images_at_once)
    episode = make_episode(pipeline, task.reward, batch, memory, mesh=rounds.mesh)
    chain = episode.chain
    if chain.key is not None:
        chain = eqx.tree_at(lambda c: c.key, chain, noise_key)
    recorded = record(chain, latents)
    scores = episode.scores_alone(recorded.end.latents)
    rollout = Rollout(
        batch=batch,
        steps=chain.steps,
        record=recorded,
        rewards=scores.total,
        weights=jnp.zeros_like(scores.total),
        times=rounds.times,
        remat=task.memory.remat,
    )
    return rollout, rows, scores.components


# The state's arrays are given up: it is updated in place.
@compiled(donate="all-except-first")
def improve(
    constants: tuple[Rounds, Rollout], state: RoundState, key: PRNGKeyArray
) -> tuple[RoundState, dict[str, Array]]:
    """Makes all the updates of a round, as one program.

    **Arguments:**

    - `constants`: What the rounds do not change, and the samples of this one.
    - `state`: Before the updates; its arrays cannot be used again.
    - `key`: Of this round.
    """
    (rounds, rollout), method = constants, constants[0].method
    plan_key, update_key = jr.split(jr.fold_in(key, 1))
    rows, times = _plan(rollout, plan_key, rounds.schedule)
    drawn_by = state.trainable

    def update(state: RoundState, inputs):
        rows, times, key = inputs
        part = rollout.select(rows, times)
        batch = divided(part.batch, rounds.mesh)
        is_current = _are_equal(state.trainable, drawn_by)
        part = dataclasses.replace(part, batch=batch, is_current=is_current)
        whole = lambda trainable: eqx.combine(trainable, rounds.task.pipeline)
        learned, figures = method.learn(
            state.learned, rounds.constant, whole(state.trainable), part
        )

        def objective(trainable):
            return method.objective(
                whole(trainable), learned, rounds.constant, part, key
            )

        gradient_of = eqx.filter_value_and_grad(objective, has_aux=True)
        (_, more), gradient = gradient_of(state.trainable)
        gradient_norm = norm_of(gradient)
        fine = jnp.isfinite(gradient_norm)
        trainable, opt_state = ascend(
            rounds.optimizer, gradient, state.opt_state, state.trainable, fine
        )
        figures = {
            "gradient_norm": jnp.where(fine, gradient_norm, 0),
            "skipped_updates": 1 - fine.astype(jnp.float32),
            **figures,
            **more,
        }
        return RoundState(trainable, opt_state, learned), figures

    keys = jr.split(update_key, len(rows))
    state, figures = lax.scan(update, state, (rows, times, keys))
    skipped = jnp.sum(figures.pop("skipped_updates"))
    figures = {**jax.tree.map(jnp.mean, figures), "skipped_updates": skipped}
    rate = learning_rate(state.opt_state)
    return state, figures if rate is None else figures | {"learning_rate": rate}


def _are_equal(tree: Pipeline, other: Pipeline) -> Bool[Array, ""]:
    """Whether all arrays are the same, number by number."""
    equal = jax.tree.map(lambda x, y: jnp.all(x == y), tree, other)
    return jax.tree.reduce(jnp.logical_and, equal, jnp.asarray(True))


def _plan(
    rollout: Rollout, key: PRNGKeyArray, schedule: Schedule
) -> tuple[Int[Array, "updates rows"], Int[Array, "updates times"]]:
    """The images and the steps of every update: each image at each step once an epoch,
    both in random order."""
    size, length = schedule.minibatch_size, schedule.steps_per_update

    def epoch(key):
        row_key, time_key = jr.split(key)
        rows = jr.permutation(row_key, schedule.batch_size).reshape(-1, 1, size)
        times = jr.permutation(time_key, rollout.times)[: schedule.num_trained]
        times = times.reshape(1, -1, length)
        count = (rows.shape[0], times.shape[1])
        return (
            jnp.broadcast_to(rows, (*count, size)).reshape(-1, size),
            jnp.broadcast_to(times, (*count, length)).reshape(-1, length),
        )

    epochs = [epoch(key) for key in jr.split(key, schedule.num_inner_epochs)]
    rows, times = zip(*epochs, strict=True)
    return jnp.concatenate(rows), jnp.concatenate(times)
