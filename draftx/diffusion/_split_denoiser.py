from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from .._custom_types import Latents
from .._mesh import batch_spec, by_batch, MODEL_AXIS, weight_axis, weight_spec
from ..layers import Piece
from ..lora import lora_filter
from ._denoiser import AbstractDenoiser
from ._guidance import Denoiser


class SplitDenoiser(AbstractDenoiser):
    """Gives every device of a mesh a copy of a denoiser and a part of the batch.

    Left to itself, the compiler sums the adapter's gradient over devices wherever a
    layer adds to it: in every backward step of a chain, array by array. Here each
    device has an adapter of its own, all of them equal, as a row of one matrix: their
    gradients are one row a device, and summed once, after the last of the steps.

    Frozen weights that are divided over the axis `"model"` stay so: a block gathers
    its own when it is called, and again in its backward pass.
    """

    denoiser: Denoiser  # Without the arrays of its adapter.
    adapters: Float[Array, "devices size"]
    from_row: Any = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)

    def __init__(self, denoiser: Denoiser, mesh: Mesh):
        """**Arguments:**

        - `denoiser`: Its batch must be divisible by the number of devices.
        - `mesh`: With the axis `"data"`, or `"model"` too.
        """
        adapter, self.denoiser = eqx.partition(denoiser, lora_filter(denoiser))
        row, self.from_row = ravel_pytree(adapter)
        rows = jnp.broadcast_to(row, (mesh.size, row.size))
        self.adapters = lax.with_sharding_constraint(rows, by_batch(mesh))
        self.mesh = mesh

    def __call__(self, latents: Latents, index: Int[Array, ""]) -> Latents:
        arrays, static = eqx.partition(self.denoiser, eqx.is_array)
        is_of_batch = eqx.tree_at(
            lambda d: (d.text_embeddings, d.text_context, d.channels),
            jax.tree.map(lambda _: False, arrays),
            (True, True, True),
            is_leaf=lambda node: node is None,
        )
        of_batch, shared = eqx.partition(arrays, is_of_batch)
        everywhere, blocks = PartitionSpec(), lambda denoiser: denoiser.unet.blocks
        specs = jax.tree.map(lambda _: everywhere, shared)
        spec = lambda x: weight_spec(x.shape, self.mesh)
        specs = eqx.tree_at(blocks, specs, jax.tree.map(spec, blocks(shared)))
        axis = lambda x: weight_axis(x.shape, self.mesh)
        axes = jax.tree.map(axis, blocks(shared))

        def local(adapters, of_batch, shared, latents, index):
            pieces = jax.tree.map(_piece, blocks(shared), axes)
            shared = eqx.tree_at(blocks, shared, pieces)
            adapter = self.from_row(adapters[0])
            denoiser = eqx.combine(adapter, of_batch, shared, static)
            return denoiser(latents, index)

        # Custom derivatives do not say which of their cotangents differ from device
        # to device, so that is not checked.
        split = batch_spec(self.mesh)
        call = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(split, split, specs, split, everywhere),
            out_specs=split,
            check_vma=False,
        )
        return call(self.adapters, of_batch, shared, latents, index)


def _piece(part: Array, axis: int | None) -> Any:
    return part if axis is None else Piece(part, axis, MODEL_AXIS)
