import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..formats import ModelFileError, read_arrays


Network = TypeVar("Network")


def read_network(
    from_arrays: Callable[[Mapping[str, Any]], Network], path: pathlib.Path
) -> Network:
    """Reads a network whose sizes can be read off the shapes of its file.

    **Arguments:**

    - `from_arrays`: Makes it, such as `draftx.judges.ResNet.from_arrays`.
    - `path`: A file of PyTorch or of safetensors.
    """
    arrays = read_arrays(path)
    try:
        return from_arrays(arrays)
    except ValueError as e:
        raise ModelFileError(f"{str(path)!r} does not fit: {e}") from e
