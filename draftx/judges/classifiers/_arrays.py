"""Filling a network with the arrays of a checkpoint that has its own names."""

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from ...models import named_parameters, replace_parameters


_Model = TypeVar("_Model", bound=eqx.Module)


def with_arrays(skeleton: _Model, arrays: Mapping[str, Any]) -> _Model:
    """Fills a network with the arrays of a checkpoint, all of them or an error.

    **Arguments:**

    - `skeleton`: Its arrays may be shapes only. Its fields are named after the
        checkpoint's.
    - `arrays`: By their names in the checkpoint. The counters that batch normalization
        keeps while training are skipped.

    **Returns:**

    The network, its arrays in the dtypes of `skeleton`.
    """
    parameters = {p.key: p for p in named_parameters(skeleton)}
    given = {k: v for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    misshaped = [
        f"{key}: {tuple(given[key].shape)}, not {p.file_shape}"
        for key, p in parameters.items()
        if key in given and tuple(given[key].shape) != p.file_shape
    ]
    problems = [
        f"{len(items)} {kind} ({', '.join(items[:5])})"
        for kind, items in (
            ("missing", [key for key in parameters if key not in given]),
            ("unexpected", [key for key in given if key not in parameters]),
            ("of the wrong shape", misshaped),
        )
        if items
    ]
    if problems:
        raise ValueError(
            f"`arrays` must be those of a {type(skeleton).__name__} "
            f"({len(parameters)}); got {'; '.join(problems)}."
        )
    infinite = [key for key in parameters if not np.isfinite(given[key]).all()]
    if infinite:
        raise ValueError(
            f"`arrays` must be finite; {len(infinite)} are not: "
            f"{', '.join(infinite[:5])}."
        )
    cast = lambda p: p.from_file(np.asarray(given[p.key])).astype(p.leaf.dtype)
    filled: Any = replace_parameters(skeleton, lambda p: jax.device_put(cast(p)))
    return filled


def shape_of(arrays: Mapping[str, Any], key: str, model: str) -> tuple[int, ...]:
    """Looks up the shape of the array from which sizes of a network are read.

    **Arguments:**

    - `arrays`: By their names in the checkpoint.
    - `key`: Must be among them.
    - `model`: Its name, for the error text.
    """
    if key not in arrays:
        raise ValueError(
            f"`arrays` must be those of a {model}; {key!r} is missing, and there are "
            f"{', '.join(list(arrays)[:5]) or 'none'}."
        )
    return tuple(arrays[key].shape)
