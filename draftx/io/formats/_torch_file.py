"""Weights in files that PyTorch wrote, `.pth`, `.pt`, `.ckpt` and `.bin`."""

import math
import os
import pathlib
import zipfile
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from ._beginnings import remedy
from ._errors import ModelFileError, shown
from ._pickle import read_contents
from ._tensors import AbstractTensors, dtype_name
from ._unpickle import Tensor


_DAMAGE = (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError)


class PickledFile(AbstractTensors):
    """Reads what a file of `torch.save` holds, without PyTorch.

    Such files hold a pickle, which could run anything. Nothing is run: of the names in
    a pickle those are known that describe tensors, and any other is an error that says
    which. Both of PyTorch's containers are read, the zip file and the one before
    version 1.6. Tensors are read when they are asked for.
    """

    def __init__(self, path: str | os.PathLike, *, is_checkpoint: bool = False):
        """**Arguments:**

        - `path`: The file. Nested dictionaries and lists are flattened, keys joined
            with dots; where there is an entry `"state_dict"`, it alone is read.
        - `is_checkpoint`: Whether a trainer wrote it: what it keeps beside the tensors,
            such as its callbacks, is then passed over. Nothing of that is run either.
        """
        self.name = str(path)
        self._path = pathlib.Path(path)
        try:
            with self._path.open("rb") as file:
                found = read_contents(file, self.name, is_checkpoint=is_checkpoint)
        except ModelFileError:
            raise
        except FileNotFoundError as e:
            raise ModelFileError(f"{self.name!r} is missing.") from e
        except _DAMAGE as e:
            raise _damaged(self.name, e) from e
        self._tensors, self.texts, self._read = found
        _check_size(self._tensors, self.name)
        self.shapes = {key: tensor.shape for key, tensor in self._tensors.items()}
        self.dtypes = {
            key: dtype_name(tensor.dtype) for key, tensor in self._tensors.items()
        }

    def read_exactly(self, key: str) -> np.ndarray:
        tensor = self._tensors[key]
        try:
            with self._path.open("rb") as file:
                data = self._read(file, tensor.storage)
        except _DAMAGE as e:
            raise _damaged(self.name, e) from e
        try:
            return tensor.read(np.frombuffer(data, np.uint8))
        except ValueError as e:
            raise ModelFileError(
                f"{key!r} of {self.name!r} cannot be read: {e}."
            ) from e


def read_torch_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that `torch.save` wrote, without PyTorch.

    Such files hold a pickle, which could run anything. This function runs nothing: of
    the names in a pickle it knows those that describe tensors, and any other is an
    error that says which. Both of PyTorch's containers are read, the zip file and the
    one before version 1.6.

    **Arguments:**

    - `path`: The file. Nested dictionaries and lists are flattened, keys joined with
        dots; where there is an entry `"state_dict"`, it alone is read. Numbers and
        strings are left out.

    **Returns:**

    Contiguous arrays in the file's dtypes, in the file's order. They may be read-only.
    """
    arrays, _ = read_torch_contents(path)
    return arrays


def read_torch_contents(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the tensors of a file that `torch.save` wrote, and its strings.

    **Arguments:**

    - `path`: As in [`draftx.io.read_torch_file`][].
    """
    file = PickledFile(path)
    return {key: file.read_exactly(key) for key in file.shapes}, file.texts


def _damaged(name: str, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"{name!r} cannot be read: {shown(str(error))}. {remedy(pathlib.Path(name))}"
    )


def _check_size(tensors: Mapping[str, Tensor], name: str) -> None:
    # Tied weights are there a few times; a thousand times, or with strides of zero,
    # they would fill a memory.
    wanted = sum(_size(t.dtype, *t.shape) for t in tensors.values())
    there = {t.storage for t in tensors.values()}
    if wanted > max(2**30, 8 * sum(_size(s.dtype, s.size) for s in there)):
        raise ModelFileError(
            f"{name!r} must hold tensors of about its own size; they unpack to "
            f"{wanted} bytes."
        )


def _size(dtype: str, *shape: int) -> int:
    """In bytes."""
    return math.prod(shape) * jnp.dtype(dtype).itemsize
