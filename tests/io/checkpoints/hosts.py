"""One of two processes that save the same training together, each as on its own host.

Run as `python -m tests.io.checkpoints.hosts STORE FOLDER PORT INDEX`, once for each
index; prints what it has seen.
"""

import json
import sys
import warnings

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import draftx
from draftx.io.checkpoints import from_arrays, to_arrays


def _made(mesh, numbers, spec):
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(numbers.shape, sharding, lambda i: numbers[i])


def _is(array, numbers):
    """Whether the parts of an array that are here have these numbers."""
    return all(
        np.array_equal(s.data, numbers[s.index]) for s in array.addressable_shards
    )


def main(store_name, folder):
    mesh = Mesh(np.asarray(jax.devices()), ("x",))
    numbers = np.arange(8, dtype=np.float32)
    tree = {
        "same": _made(mesh, numbers, PartitionSpec()),
        "host": np.asarray([3, 4]),
    }
    split = tree | {"split": _made(mesh, numbers, PartitionSpec("x"))}
    store = draftx.Checkpoints(folder, total_limit=2, store=store_name).open()
    seen = {"index": jax.process_index(), "first": store.newest() is None}
    if store_name == "orbax":
        tree = split
    else:
        try:
            store.save(1, to_arrays(split), {})
        except ValueError as error:
            seen["refused"] = str(error)
    for step in (1, 2, 3):
        store.save(step, to_arrays(tree), {"step": step})
        seen[f"saved {step}"] = store.steps()
    newest = store.newest()
    restored = from_arrays(tree, newest.arrays, "it")
    seen["newest"] = newest.notes["step"]
    seen["same"] = _is(restored["same"], numbers)
    if "split" in restored:
        seen["split"] = _is(restored["split"], numbers)
    # One of them finds damage: all take the one before.
    if jax.process_index() == 1:
        whole = store.read

        def read(step):
            found = whole(step)
            if step == 3:
                raise draftx.io.ModelFileError("it is damaged here.")
            return found

        store.read = read
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen["then"] = store.newest().step
    seen["warned"] = [str(w.message) for w in caught if "damaged" in str(w.message)]
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    name, folder, port, index = sys.argv[1:]
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    main(name, folder)
