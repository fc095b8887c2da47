from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
from jax.sharding import Mesh, NamedSharding

from .._checks import check_is
from .._mesh import by_batch, everywhere, make_mesh, MeshLike, to_mesh, weight_spec
from ..lora import lora_filter
from ._batch import Batch
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


def spread(batch: Batch, mesh: Mesh | None) -> tuple[Batch, Mesh | None]:
    """Divides the rows of a batch over a mesh, if they can be.

    **Arguments:**

    - `batch`: To be drawn.
    - `mesh`: Of the pipeline that draws it; `None` for none.

    **Returns:**

    The batch, and the mesh that it is divided over, which is `None` where every device
    has all of it.
    """
    if mesh is None:
        return batch, None
    size = len(batch.latents)
    is_divided = size % mesh.size == 0

    def one(leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        is_of_rows = is_divided and leaf.shape[:1] == (size,)
        return to_mesh(leaf, by_batch(mesh) if is_of_rows else everywhere(mesh))

    return jax.tree.map(one, batch), mesh if is_divided else None


def divided(batch: Batch, mesh: Mesh) -> Batch:
    """Divides the rows of a batch over a mesh, inside of `jit`.

    **Arguments:**

    - `batch`: What is one row for all of it is not divided.
    - `mesh`: Whose devices divide its size; with others nothing is said of it.
    """
    size = len(batch.latents)
    if size % mesh.size:
        return batch
    constrain = lambda x: (
        lax.with_sharding_constraint(x, by_batch(mesh)) if x.shape[0] == size else x
    )
    parts = (batch.conditioning, batch.latents, batch.features)
    conditioning, latents, features = jax.tree.map(constrain, parts)
    return Batch(conditioning, latents, batch.key, batch.plan, features)
