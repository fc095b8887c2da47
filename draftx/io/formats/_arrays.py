"""Files of weights without a `config.json`, read whole, to be renamed in memory."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._errors import first_five, ModelFileError
from ._pickle import read_torch_file
from ._safetensors import TensorFile


class Arrays:
    """Holds arrays in memory, to be read as a `TensorFile` is."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str):
        """**Arguments:**

        - `arrays`: By name.
        - `name`: Of the file, for error texts.
        """
        self.name = name
        self.shapes = {key: array.shape for key, array in arrays.items()}
        self._arrays = arrays

    def check_dtypes(self, keys: list[str]) -> None:
        """Raises unless the arrays named by `keys` are floats."""
        dtypes = {key: self._arrays[key].dtype for key in keys}
        wrong = [
            f"{k}: {d}" for k, d in dtypes.items() if not jnp.issubdtype(d, np.floating)
        ]
        if wrong:
            raise ModelFileError(
                f"{self.name!r} must hold floats; {len(wrong)} of its tensors are "
                f"not: {first_five(wrong)}."
            )

    def read(self, key: str, dtype: Any) -> np.ndarray:
        """Casts one array; a value that is not finite is an error.

        **Arguments:**

        - `key`: The name of the array.
        - `dtype`: To be cast to.
        """
        with np.errstate(over="ignore"):
            array = self._arrays[key].astype(dtype, copy=False)
        if not np.isfinite(array).all():
            raise ModelFileError(
                f"{self.name!r} must hold finite weights; values of {key!r} are not, "
                f"or are too large for {jnp.dtype(dtype).name}."
            )
        return array


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
