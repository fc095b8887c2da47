"""A function of the host in the middle of a compiled program, without a deadlock."""

import functools as ft
import threading
from collections.abc import Callable, Hashable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Float


def call_on_host(
    fn: Callable[..., np.ndarray], batch: int, *args: Any
) -> Float[Array, " batch"]:
    """Calls a function of NumPy arrays that gives one float32 number for each image.

    On a CPU it is given the memory of the program. `jax.pure_callback` would first copy
    it to arrays of JAX: the copies are made by the threads that run programs, of which
    there are as many as cores, and a program that waits in a callback holds one. With
    one core, or one program on each device, a function that reads its arguments would
    wait for ever.

    **Arguments:**

    - `fn`: Equal functions share their programs. It may keep and change its arguments.
    - `batch`: How many numbers.
    - `args`: Of any tree of arrays.
    """
    # Several devices of a CPU may each make the same call, for parts of one batch.
    devices = jax.local_device_count("cpu")
    return _call(cast(Hashable, fn), batch, devices > 1, *args)


@ft.partial(jax.jit, static_argnums=(0, 1, 2))
def _call(fn: Any, batch: int, is_split: bool, *args: Any) -> Float[Array, " batch"]:
    leaves, treedef = jax.tree.flatten(args)
    shape = jax.ShapeDtypeStruct((batch,), jnp.float32)

    def of_copies(*arrays: Any) -> np.ndarray:
        # The memory of a program is its own again after the call.
        copies = [np.array(array) for array in arrays]
        return fn(*jax.tree.unflatten(treedef, copies))

    def on_cpu(*leaves: Array) -> Array:
        score = _Once(of_copies) if is_split else of_copies

        def fill(context: Any, scores: Any, *arrays: Any) -> None:
            del context
            np.asarray(scores)[...] = score(*map(np.asarray, arrays))

        return buffer_callback(fill, shape)(*leaves)

    def elsewhere(*leaves: Array) -> Array:
        return jax.pure_callback(of_copies, shape, *leaves)

    return jax.lax.platform_dependent(*leaves, cpu=on_cpu, default=elsewhere)


class _Once:
    """Calls a function once where all devices of a split program call it alike."""

    def __init__(self, fn: Callable[..., np.ndarray]):
        self._fn = fn
        self._lock = threading.Lock()
        self._last: tuple[list[np.ndarray], np.ndarray] | None = None

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        with self._lock:
            if self._last is None or not _are_equal(self._last[0], arrays):
                # Copied before the call, which may change what it is given.
                copies = [array.copy() for array in arrays]
                self._last = copies, self._fn(*arrays)
            return self._last[1]


def _are_equal(first: list[np.ndarray], second: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
