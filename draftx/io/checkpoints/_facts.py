"""What a saved training or search must have in common with the one that goes on."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ..._fingerprint import fingerprint
from ..._mesh import mesh_of
from ..._table import Table
from ._abstract import Checkpoint


_KIND = "kind"


def describe(
    kind: str, pipeline: Any, table: Table, key: Any, options: Mapping[str, Any]
) -> dict[str, str]:
    """Describes what decides the course of a training or a search, to be compared.

    **Arguments:**

    - `kind`: `"training"`, or the name of the search.
    - `pipeline`: As it begins, described by its structure and some of its numbers.
    - `table`, `key`: The prompts, and what draws from them.
    - `options`: Everything else, by the name that its user gave it.
    """
    facts = {
        _KIND: kind,
        "pipeline": fingerprint(pipeline),
        "prompts": _digest_of_table(table),
        "key": fingerprint(key),
        "devices": f"{jax.device_count()} of {jax.devices()[0].platform}",
    }
    mesh = mesh_of(pipeline)
    if mesh is not None:
        facts["mesh"] = ",".join(f"{name}={n}" for name, n in mesh.shape.items())
    return facts | {name: fingerprint(value) for name, value in options.items()}


def check_facts(
    facts: Mapping[str, str], found: Checkpoint, allow_changes: bool
) -> None:
    """Raises if a checkpoint is of something else, or was begun with other options.

    **Arguments:**

    - `facts`: From `describe`.
    - `found`: The checkpoint, whose notes have its own.
    - `allow_changes`: Whether other options are no error.
    """
    before, folder = found.notes["facts"], str(found.folder.parent)
    # Those of earlier versions are of trainings, and do not say so.
    kinds = [of.get(_KIND, "training") for of in (before, facts)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"`folder` must be that of one {kinds[1]}; {folder!r} has the checkpoints "
            f"of a {kinds[0]}. Choose another folder."
        )
    names = [n for n in {**before, **facts} if before.get(n) != facts.get(n)]
    names = [n for n in names if n != _KIND]
    if not names or allow_changes:
        return
    lines = [f"  {n}: was {before.get(n)}, is {facts.get(n)}" for n in names]
    raise ValueError(
        f"The {kinds[1]} in {folder!r} must be gone on with as it was begun; changed "
        "since:\n" + "\n".join(lines) + "\nChange it back, choose another folder, or "
        "say `allow_changes=True`."
    )


def _digest_of_table(table: Table) -> str:
    digest = hashlib.sha256()
    for name in sorted(table.names):
        column = table[name]
        digest.update(f"{name}\0".encode())
        if isinstance(column, list):
            digest.update("\0".join(column).encode("utf-8", "surrogatepass"))
        else:
            digest.update(np.ascontiguousarray(column).tobytes())
    return f"{len(table)} rows, {digest.hexdigest()[:16]}"
