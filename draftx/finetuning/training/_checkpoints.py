"""What a saved training must have in common with the one that goes on."""

from collections.abc import Mapping
from typing import Any

from ..._table import Table
from ...io.checkpoints import (
    check_checkpoints as check_checkpoints,
    Checkpoints as Checkpoints,
    describe,
)


def describe_training(
    pipeline: Any, table: Table, key: Any, options: Mapping[str, Any]
) -> dict[str, str]:
    """Describes what decides the course of a training, as text to be compared.

    **Arguments:**

    - `pipeline`, `table`, `key`, `options`: As for `draftx.io.checkpoints.describe`.
    """
    return describe("training", pipeline, table, key, options)
