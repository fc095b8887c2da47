"""How weights lie in the memory of a device; what they are stays as it is."""

from typing import Any, TypeVar

import equinox as eqx
import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from ..kernels import target_device, weight_order
from ._conv import Conv2d


_Tree = TypeVar("_Tree")


def in_device_order(tree: _Tree) -> _Tree:
    """Puts the weights of convolutions into the order in which their device reads them.

    Shapes and values stay: it is the memory behind an array that is ordered otherwise.

    **Arguments:**

    - `tree`: A network or anything else; of shapes too, to compile for.
    """
    order = weight_order(target_device())
    if order == tuple(range(len(order))):
        return tree

    def one(node: Any) -> Any:
        if not isinstance(node, Conv2d) or node.weight is None:
            return node
        return eqx.tree_at(lambda conv: conv.weight, node, _ordered(node.weight, order))

    return jax.tree.map(one, tree, is_leaf=lambda node: isinstance(node, Conv2d))


def _ordered(array: Any, order: tuple[int, ...]) -> Any:
    # Shapes need not say where they are.
    place = array.sharding or SingleDeviceSharding(jax.local_devices()[0])
    format = Format(Layout(major_to_minor=order), place)
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=format)
    return jax.device_put(array, format)
