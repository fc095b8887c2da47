"""Devices as a mesh: what lies on which of them."""

import math
from typing import Any, Final, TypeAlias, TypeVar

import jax
import numpy as np
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec


# The batch is divided over all axes of a mesh, frozen weights over "model" besides.
_DATA: Final = "data"
MODEL_AXIS: Final = "model"
# Smaller arrays are not worth the time of putting them together.
_LEAST_SIZE: Final = 2**15

MeshLike: TypeAlias = str | Mesh
_Tree = TypeVar("_Tree")


def make_mesh(mesh: MeshLike) -> Mesh:
    """Makes a mesh of all devices, on all hosts.

    **Arguments:**

    - `mesh`: `"data=8"`, or `"data=4,model=2"`, whose product is the number of
        devices; or a mesh with such axes, which is checked.

    Raises a `ValueError` that says what fits.
    """
    if isinstance(mesh, Mesh):
        _check_names(mesh.axis_names, mesh.axis_names)
        return mesh
    if not isinstance(mesh, str):
        raise ValueError(f"{_RULE}; got {mesh!r}.")
    sizes = _parse(mesh)
    devices = jax.device_count()
    if math.prod(sizes.values()) != devices:
        model = sizes.get(MODEL_AXIS, 1)
        fits = f"'data={devices}'"
        if MODEL_AXIS in sizes and devices % model == 0:
            fits = f"'data={devices // model},model={model}'"
        raise ValueError(
            f"`mesh` must have as many devices as there are, {devices}; got {mesh!r}, "
            f"which is {math.prod(sizes.values())}. Use {fits}."
        )
    # Hosts hold neighbours: what is divided over "model" moves the least far.
    shape = tuple(sizes.values())
    axis_types = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, tuple(sizes), axis_types=axis_types)


def planned_mesh(mesh: str) -> AbstractMesh:
    """Makes a `mesh` such as `"data=4,model=2"` of devices that need not be there."""
    sizes = _parse(mesh)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def data_mesh(*, local: bool = False) -> Mesh:
    """Makes the mesh of all devices on which nothing but the batch is divided.

    **Arguments:**

    - `local`: Whether it is of those of this host alone.
    """
    devices = jax.local_devices() if local else jax.devices()
    return Mesh(np.asarray(devices), (_DATA,))


def mesh_of(tree: Any) -> Mesh | None:
    """Finds the mesh that the arrays of a tree lie on, if they lie on one.

    **Arguments:**

    - `tree`: Anything; inside of `jit` nothing is known of it.
    """
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None) if _is_concrete(leaf) else None
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            if set(sharding.mesh.axis_names) <= {_DATA, MODEL_AXIS}:
                return sharding.mesh
    return None


def by_batch(mesh: Mesh) -> NamedSharding:
    """Divides the first axis of arrays over all devices of a `mesh`."""
    return NamedSharding(mesh, batch_spec(mesh))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Gives each device of a `mesh` a copy."""
    return NamedSharding(mesh, PartitionSpec())


def batch_spec(mesh: Mesh) -> PartitionSpec:
    """Says that the first axis of an array is divided over all devices of a `mesh`."""
    return PartitionSpec(mesh.axis_names)


def weight_axis(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> int | None:
    """Chooses the axis along which a frozen weight is divided: its longest that can be.

    **Arguments:**

    - `shape`: Of the weight.
    - `mesh`: Divides by its axis `"model"`.

    **Returns:**

    `None` for a weight that every device holds whole.
    """
    parts = mesh.shape.get(MODEL_AXIS, 1)
    if parts == 1 or math.prod(shape) < _LEAST_SIZE:
        return None
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    return max(fitting, key=lambda axis: shape[axis], default=None)


def weight_spec(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Says how a frozen weight lies on a mesh.

    **Arguments:**

    - `shape`, `mesh`: As for `weight_axis`.
    """
    axis = weight_axis(shape, mesh)
    if axis is None:
        return PartitionSpec()
    return PartitionSpec(*(None,) * axis, MODEL_AXIS)


def to_mesh(tree: _Tree, sharding: NamedSharding) -> _Tree:
    """Puts the arrays of a tree on a mesh, each part from the memory of its own host.

    **Arguments:**

    - `tree`: The same on all hosts; what is no array stays.
    - `sharding`: Where to.
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        if getattr(leaf, "sharding", None) == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda i: whole[i])

    return jax.tree.map(one, tree)


def is_whole_here(array: Any) -> bool:
    """Whether this process has all the numbers of an `array`."""
    if not isinstance(array, jax.Array):
        return True
    return array.is_fully_addressable or array.is_fully_replicated


def to_host(tree: Any) -> Any:
    """Makes arrays of NumPy, whole on each host, of those of a tree.

    **Arguments:**

    - `tree`: Its arrays may be divided over hosts, which then all have to ask.
    """

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        if is_whole_here(leaf):
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(one, tree)


def whole(array: jax.Array) -> jax.Array:
    """Gives each host all of an array that is divided over several; others as it is.

    **Arguments:**

    - `array`: For which all hosts have to ask.
    """
    if not _is_concrete(array) or array.is_fully_addressable:
        return array
    return jax.numpy.asarray(to_host(array))


def check_divides(argument: str, size: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises a `ValueError` unless a batch can be divided over a mesh.

    **Arguments:**

    - `argument`, `size`: The name and the number of the batch's images.
    - `mesh`: Of the devices.
    """
    if size % mesh.size:
        above = (size // mesh.size + 1) * mesh.size
        below = above - mesh.size
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"`{argument}` must be divisible by the number of devices, "
            f"{mesh.size}; got {size}. Use {nearest}."
        )


def _is_concrete(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)


_RULE: Final = (
    "`mesh` must be sizes of the axes 'data' and 'model', such as 'data=8' or "
    "'data=4,model=2', or a jax.sharding.Mesh with these names"
)


def _parse(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        if not number.isascii() or not number.isdigit() or int(number) < 1:
            raise ValueError(f"{_RULE}; got {text!r}.")
        if name in sizes:
            raise ValueError(f"{_RULE}; got {text!r}, with {name!r} twice.")
        sizes[name] = int(number)
    _check_names(tuple(sizes), text)
    # The model axis last, whichever is said first.
    return {n: sizes[n] for n in (_DATA, MODEL_AXIS) if n in sizes}


def _check_names(names: tuple[Any, ...], got: Any) -> None:
    if not names or not set(names) <= {_DATA, MODEL_AXIS}:
        raise ValueError(f"{_RULE}; got {got!r}.")
