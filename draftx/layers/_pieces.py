"""Weights that are divided over devices, and put together where they are used."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array


_Tree = TypeVar("_Tree")
# What a backward pass gathers again, instead of keeping it.
GATHERED = "draftx.gathered"


class Piece(eqx.Module):
    """Holds this device's part of an array, inside `jax.shard_map`.

    **Arguments:**

    - `part`: What this device holds.
    - `axis`: The axis of the array that is divided.
    - `mesh_axis`: The axis of the mesh that it is divided over.
    """

    part: Array
    axis: int = eqx.field(static=True)
    mesh_axis: str = eqx.field(static=True)


def has_pieces(tree: Any) -> bool:
    """Says whether a tree holds a piece of an array anywhere."""
    return any(map(_is_piece, jax.tree.leaves(tree, is_leaf=_is_piece)))


def gathered(tree: _Tree) -> _Tree:
    """Puts the pieces in a tree together; one without any stays as it is.

    The arrays are named `GATHERED`, for a policy of `jax.checkpoint`.

    **Arguments:**

    - `tree`: A layer, a block, or anything else.
    """

    def whole(node: Any) -> Any:
        if not _is_piece(node):
            return node
        array = lax.all_gather(node.part, node.mesh_axis, axis=node.axis, tiled=True)
        return checkpoint_name(array, GATHERED)

    return jax.tree.map(whole, tree, is_leaf=_is_piece)


def _is_piece(node: Any) -> bool:
    return isinstance(node, Piece)
