"""A step updates its state in place; what is handed in or out stays as it was."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh

import draftx
from draftx.episodes import make_task
from draftx.finetuning import EarlyStopping, Stopping
from draftx.finetuning.training import split, train_step, Training, TrainState

from ..short import finetune, flaky, FROM_PARAMS, held_out, PROMPTS, SAMPLING


def _copy(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


def _assert_equal(tree, copy):
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(copy), strict=True)
    for actual, expected in pairs:
        assert not actual.is_deleted()
        np.testing.assert_array_equal(actual, expected)


def test_the_state_is_given_up(pipeline):
    optimizer = draftx.adamw(1e-2)
    shape = (2, *pipeline.latent_shape)
    task = make_task(
        pipeline, flaky(0.0), draftx.Table.of(PROMPTS), SAMPLING, shape=shape
    )
    trainable, task = split(task)
    trainable = jax.tree.map(lambda x: jnp.array(x, copy=True), trainable)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    method, key = draftx.DRaFT(1), jr.key(0)
    training = Training(task, method, key, optimizer, mesh, shape)
    state = TrainState(trainable, optimizer.init(trainable))
    old = jax.tree.leaves(state)
    places = {x.unsafe_buffer_pointer() for x in old}
    others = eqx.filter((training, pipeline), eqx.is_inexact_array)
    kept = _copy(others)
    new, _ = train_step(training, state, jnp.asarray(0))
    assert all(x.is_deleted() for x in old)
    # Nothing is allocated for the adapter: it lies where the old state was.
    now = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(new.trainable)}
    assert now <= places
    _assert_equal(others, kept)


def _loop_of_callbacks(seen):
    """A callback that keeps every pipeline, and what it was."""

    def callback(row, pipeline):
        seen.append((pipeline, _copy(jax.tree.leaves(pipeline))))

    return callback


def test_pipelines_handed_in_and_out_stay_as_they_were(pipeline):
    given, seen = _copy(jax.tree.leaves(pipeline)), []
    options = dict(
        evaluation=held_out(weights={"there": 1.0}, every=2),
        stopping=Stopping(EarlyStopping(patience=9)),
        callbacks=[_loop_of_callbacks(seen)],
    )
    first = finetune(pipeline, **options)
    second = finetune(pipeline, **options)  # With the same pipeline.
    again = finetune(first.pipeline, **options)  # With what came out of the first.
    _assert_equal(jax.tree.leaves(pipeline), given)
    assert len(seen) == 18
    for kept, copy in seen:
        _assert_equal(jax.tree.leaves(kept), copy)
    states = [draftx.lora_state_dict(kept) for kept, _ in seen]
    for result, last in ((first, 5), (second, 11), (again, 17)):
        step = last if result.step == 6 else last - 6 + result.step
        for name, array in draftx.lora_state_dict(result.pipeline).items():
            np.testing.assert_array_equal(array, states[step][name])
    for name, array in states[5].items():
        np.testing.assert_array_equal(array, states[11][name])
        if np.any(array != 0):
            assert not np.array_equal(array, states[0][name])
    # And it can be used.
    draftx.sample(pipeline, ["cat"], SAMPLING)
    draftx.sample(first.pipeline, ["cat"], SAMPLING)


def test_an_optimizer_may_begin_with_the_arrays_that_it_trains(pipeline):
    result = finetune(pipeline, optimizer=FROM_PARAMS, num_train_steps=1)
    assert result.history[0]["skipped"] == 0
