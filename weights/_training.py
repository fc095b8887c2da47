"""What the training scripts share: the loop, its optimizer, its checkpoints."""

import itertools
import json
import os
import pathlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file
from tqdm import tqdm


def make_optimizer(
    num_steps: int,
    learning_rate: float,
    *,
    warmup: int = 100,
    floor: float = 0.02,
    convolutions: Literal["HWIO", "OIHW"] = "HWIO",
) -> optax.GradientTransformation:
    """Muon for matrices and convolutions, AdamW for the rest; cosine schedule.

    In trial runs on this data Muon needed about half of AdamW's steps for the same
    loss, for a few per cent more time a step.

    **Arguments:**

    - `warmup`: Steps in which the learning rate rises.
    - `floor`: The last learning rate, over the highest.
    - `convolutions`: The order of axes of arrays that have four.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, num_steps, end_value=floor * learning_rate
    )

    def dimensions(params):
        def one(path, leaf):
            name = jax.tree_util.keystr(path)
            if leaf.ndim == 4 and convolutions == "OIHW":
                return optax.contrib.MuonDimensionNumbers((1, 2, 3), 0)
            if leaf.ndim == 4:
                return optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
            if leaf.ndim == 2 and "embedding" not in name.split(".")[-1]:
                return optax.contrib.MuonDimensionNumbers(1, 0)
            return None

        return jax.tree_util.tree_map_with_path(one, params)

    optimizer = optax.contrib.muon(
        schedule,
        beta=0.95,
        adam_b1=0.9,
        adam_b2=0.99,
        weight_decay=1e-3,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=dimensions,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optimizer)


def use_cpu_cores(num_devices: int) -> None:
    """One host device per core, each with one thread. Call before any JAX work.

    XLA's CPU backend gains little from a second core inside one device, and loses
    when the devices' thread pools compete.
    """
    flag = " --xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flag
    jax.config.update("jax_num_cpu_devices", num_devices)


def data_sharding() -> tuple[NamedSharding, NamedSharding]:
    """How to place a batch over all devices, and what each of them has whole."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    return NamedSharding(mesh, PartitionSpec("data")), NamedSharding(
        mesh, PartitionSpec()
    )


def prefetch(
    draw: Callable[[np.random.Generator, int], Any],
    *,
    seed: int,
    first: int,
    depth: int = 4,
) -> Iterator[Any]:
    """Draws the batches of step `first` and those after it, in a thread of their own.

    Each step has random numbers of its own: those that a run goes on with are those
    that it would have had.
    """
    waiting: queue.Queue = queue.Queue(depth)

    def work():
        for step in itertools.count(first):
            waiting.put(draw(np.random.default_rng([seed, step]), step))

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield waiting.get()


def save_tree(
    path: pathlib.Path, tree: Any, metadata: dict[str, str] | None = None
) -> None:
    """Writes the arrays of a tree."""
    arrays = {
        jax.tree_util.keystr(key): np.ascontiguousarray(leaf).reshape(leaf.shape)
        for key, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    save_arrays(path, arrays, metadata)


def save_arrays(
    path: pathlib.Path,
    arrays: dict[str, np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes arrays by their names; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(arrays, partial, metadata=metadata)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_tree(path: pathlib.Path, like: Any) -> Any:
    """Reads what `save_tree` wrote, into a tree like the one given."""
    arrays = load_file(path)

    def fill(key, leaf):
        array = arrays[jax.tree_util.keystr(key)]
        return jnp.asarray(array.reshape(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, like)


def fit(
    model: Any,
    loss_fn: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]],
    draw: Callable[[np.random.Generator, int], Any],
    *,
    seed: int,
    num_steps: int,
    learning_rate: float,
    ema_decay: float,
    folder: pathlib.Path,
    save_every: int = 500,
    log_every: int = 50,
    on_save: Callable[[Any, int], None] | None = None,
    convolutions: Literal["HWIO", "OIHW"] = "HWIO",
) -> Any:
    """Trains every array of `model`; goes on from `folder` if it has a checkpoint.

    **Arguments:**

    - `loss_fn`: `(model, batch, key) -> (loss, metrics)`.
    - `draw`: `(rng, step) -> batch`, the batch of a step: a tuple of arrays.
    - `seed`: Of the random numbers that batches are drawn with.
    - `ema_decay`: Of the average of the weights that is returned.
    - `folder`: Gets `checkpoint.safetensors` and `log.jsonl`.
    - `on_save`: Called with the averaged model and the step.
    - `convolutions`: As for `make_optimizer`.

    **Returns:**

    The averaged model.
    """
    params, static = eqx.partition(model, eqx.is_inexact_array)
    optimizer = make_optimizer(num_steps, learning_rate, convolutions=convolutions)
    by_batch, everywhere = data_sharding()
    state = (params, params, optimizer.init(params), jnp.zeros((), jnp.int32))
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.is_file():
        state = load_tree(checkpoint, state)
    state = jax.device_put(state, everywhere)

    @jax.jit
    def step_fn(state, batch, key):
        params, average, opt_state, step = state
        key = jr.fold_in(key, step)
        loss = lambda params: loss_fn(eqx.combine(params, static), batch, key)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        # A short average at first: the first weights are worth nothing.
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        average = jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * p, average, params
        )
        metrics = metrics | {"gradient_norm": optax.tree.norm(grads)}
        return (params, average, opt_state, step + 1), metrics

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    first, start = int(state[3]), time.perf_counter()
    source = prefetch(draw, seed=seed, first=first)
    folder.mkdir(parents=True, exist_ok=True)
    bar = tqdm(range(first, num_steps), initial=first, total=num_steps, mininterval=5)
    for step in bar:
        batch = jax.device_put(next(source), by_batch)
        state, metrics = step_fn(state, batch, jr.key(1))
        done = step + 1
        if done % log_every == 0:
            row = {name: round(float(value), 5) for name, value in metrics.items()}
            row |= dict(step=done, seconds=round(time.perf_counter() - start, 1))
            with open(folder / "log.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            bar.set_postfix(row)
        if done % save_every == 0 or done == num_steps or stop.is_set():
            save_tree(checkpoint, state, {"step": str(done)})
            if on_save is not None:
                on_save(eqx.combine(state[1], static), done)
        if stop.is_set():
            raise SystemExit(f"stopped after step {done}; run again to go on")
    return eqx.combine(jax.device_get(state[1]), static)
