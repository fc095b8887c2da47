from typing import Any

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from .._custom_types import Latents
from ..lora import lora_filter
from ._denoiser import AbstractDenoiser
from ._guidance import Denoiser


_BY_BATCH, _EVERYWHERE = PartitionSpec("data"), PartitionSpec()


class SplitDenoiser(AbstractDenoiser):
    """Gives every device of a mesh a copy of a denoiser and a part of the batch.

    Left to itself, the compiler sums the adapter's gradient over devices wherever a
    layer adds to it: in every backward step of a chain, array by array. Here each
    device has an adapter of its own, all of them equal, as a row of one matrix: their
    gradients are one row a device, and summed once, after the last of the steps.
    """

    denoiser: Denoiser  # Without the arrays of its adapter.
    adapters: Float[Array, "devices size"]
    from_row: Any = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)

    def __init__(self, denoiser: Denoiser, mesh: Mesh):
        """**Arguments:**

        - `denoiser`: Its batch must be divisible by the number of devices.
        - `mesh`: With one axis, `"data"`.
        """
        adapter, self.denoiser = eqx.partition(denoiser, lora_filter(denoiser))
        row, self.from_row = ravel_pytree(adapter)
        rows = jnp.broadcast_to(row, (mesh.size, row.size))
        split = NamedSharding(mesh, _BY_BATCH)
        self.adapters = lax.with_sharding_constraint(rows, split)
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

        def local(adapters, of_batch, shared, latents, index):
            adapter = self.from_row(adapters[0])
            denoiser = eqx.combine(adapter, of_batch, shared, static)
            return denoiser(latents, index)

        # Custom derivatives do not say which of their cotangents differ from device
        # to device, so that is not checked.
        call = jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=(_BY_BATCH, _BY_BATCH, _EVERYWHERE, _BY_BATCH, _EVERYWHERE),
            out_specs=_BY_BATCH,
            check_vma=False,
        )
        return call(self.adapters, of_batch, shared, latents, index)
