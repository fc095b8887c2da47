"""Files of weights without a `config.json`, read whole, to be renamed in memory."""

import pathlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from ._errors import ModelFileError
from ._safetensors import TensorFile
from ._tensors import AbstractTensors, dtype_name
from ._torch_file import read_torch_file


class Arrays(AbstractTensors):
    """Holds arrays in memory, to be read as a file is."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str):
        """**Arguments:**

        - `arrays`: By name.
        - `name`: Of the file, for error texts.
        """
        self.name = name
        self.shapes = {key: array.shape for key, array in arrays.items()}
        self.dtypes = {key: dtype_name(array.dtype) for key, array in arrays.items()}
        self._arrays = arrays

    def read_exactly(self, key: str) -> np.ndarray:
        return self._arrays[key]


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a file of PyTorch or of safetensors.

    **Arguments:**

    - `path`: Of the file; `.safetensors` says which.
    """
    if not path.is_file():
        raise ModelFileError(f"{str(path)!r} must be a file of weights; it is not.")
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    file = TensorFile(path)
    file.check_dtypes(list(file.shapes))
    kept = {"F16": np.float16, "BF16": jnp.bfloat16}
    return {
        key: file.read(key, kept.get(file.dtypes[key], np.float32))
        for key in file.shapes
    }
