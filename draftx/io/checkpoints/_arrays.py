"""A tree of arrays as named arrays of NumPy, and back, bit for bit."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from ..formats import first_five, ModelFileError


_Tree = TypeVar("_Tree")


def to_arrays(tree: Any) -> dict[str, jax.Array | np.ndarray]:
    """Names the arrays of a tree by their paths, as a store takes them.

    **Arguments:**

    - `tree`: Arrays, typed keys among them, and whatever has none.
    """
    return {
        name: data if isinstance(data, jax.Array) else np.asarray(data)
        for name, data in _named_data(tree)
    }


def from_arrays(
    like: _Tree, arrays: Mapping[str, jax.Array | np.ndarray], name: str
) -> _Tree:
    """Puts saved arrays in the places of those of a tree.

    **Arguments:**

    - `like`: The tree whose structure, shapes and dtypes the arrays must have. They
        are put on the devices that its own were put on, or left where they may move.
    - `arrays`: From `to_arrays`.
    - `name`: Of the file, for error texts.

    Raises a [`draftx.io.ModelFileError`][] if one is missing, left over or of another
    shape or dtype: the tree was saved by a training with other options.
    """
    wanted = dict(_named_data(like))
    missing = sorted(wanted.keys() - arrays.keys())
    unexpected = sorted(arrays.keys() - wanted.keys())
    differing = [
        f"{key}: {_spec(arrays[key])}, not {_spec(leaf)}"
        for key, leaf in wanted.items()
        if key in arrays and _spec(arrays[key]) != _spec(leaf)
    ]
    problems = [
        f"{len(items)} {kind}: {first_five(items)}"
        for kind, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape or dtype", differing),
        )
        if items
    ]
    if problems:
        raise ModelFileError(
            f"{name!r} must hold the state to go on with ({len(wanted)} arrays); "
            f"{'; '.join(problems)}. It was saved with other options."
        )

    def restore(path: Any, leaf: Any) -> Any:
        array = arrays[jtu.keystr(path)]
        if not isinstance(leaf, jax.Array):
            return array
        if _is_key(leaf):
            array = jr.wrap_key_data(jnp.asarray(array), impl=jr.key_impl(leaf))
        if leaf.committed:
            return jax.device_put(array, leaf.sharding)
        return jnp.asarray(array)

    return jtu.tree_map_with_path(restore, like)


def _named_data(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jtu.keystr(path), jr.key_data(leaf) if _is_key(leaf) else leaf)
        for path, leaf in jtu.tree_leaves_with_path(tree)
    ]


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _spec(array: Any) -> str:
    return f"{jnp.result_type(array).name}{list(np.shape(array))}"
