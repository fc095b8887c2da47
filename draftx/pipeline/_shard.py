from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from .._checks import check_is
from .._mesh import everywhere, make_mesh, MeshLike, weight_spec
from ..lora import lora_filter
from ._pipeline import Pipeline


_Tree = TypeVar("_Tree")


def shard(pipeline: Pipeline, mesh: MeshLike) -> Pipeline:
    """Places a pipeline on a mesh of devices; what it computes is then divided there.

    `draftx.finetune`, `sample` and the rest follow where the arrays are: batches are
    divided over all devices of the mesh, whichever axis they are on. Over the axis
    `"model"` the frozen weights are divided too, so that each device holds a part, and
    a block is put together when it is used. Adapters are small, and everywhere.

    Without it, batches of a training are divided over all devices, and each of them
    holds a copy of the weights.

    **Arguments:**

    - `pipeline`: With or without an adapter.
    - `mesh`: `"data=8"`, or `"data=4,model=2"`: sizes whose product is the number of
        devices, those of all hosts after `jax.distributed.initialize()`. Or a
        `jax.sharding.Mesh` with axes of these names.

    Raises a `ValueError` that says what fits the devices there are.
    """
    check_is("pipeline", pipeline, Pipeline, 'draftx.load("tiny")')
    return place(pipeline, make_mesh(mesh))


def place(pipeline: _Tree, mesh: Mesh) -> _Tree:
    """Puts the arrays of a pipeline, or of a part of it, where a mesh wants them.

    **Arguments:**

    - `pipeline`: Frozen weights are divided over `"model"`, adapters are not.
    - `mesh`: Of devices.
    """
    is_adapter = lora_filter(pipeline)

    def one(leaf: Any, is_adapter: bool) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        if is_adapter:
            return to_mesh(leaf, everywhere(mesh))
        return to_mesh(leaf, NamedSharding(mesh, weight_spec(leaf.shape, mesh)))

    return jax.tree.map(one, pipeline, is_adapter)


def to_mesh(array: Array, sharding: NamedSharding) -> Array:
    """Puts an array on a mesh, each device's part from the memory of its own host.

    **Arguments:**

    - `array`: The same on all hosts.
    - `sharding`: Where to.
    """
    if getattr(array, "sharding", None) == sharding:
        return array
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = to_mesh(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])
