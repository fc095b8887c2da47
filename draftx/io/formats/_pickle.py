"""Weights in files that PyTorch wrote, `.pth`, `.pt`, `.ckpt` and `.bin`."""

import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ._errors import ModelFileError
from ._flatten import flatten
from ._unpickle import Storage, Tensor, unpickle


# What files of PyTorch before 1.6, or with the old format asked for, begin with.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


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
    path = pathlib.Path(path)
    name = str(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_LEGACY_START))
            file.seek(0)
            if start[:4] == b"PK\x03\x04":
                return _read_zip(file, name)
            if start == _LEGACY_START:
                return _read_legacy(file, name)
    except ModelFileError:
        raise
    except FileNotFoundError as e:
        raise ModelFileError(f"{name!r} is missing.") from e
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError) as e:
        raise ModelFileError(
            f"{name!r} cannot be read: {e}. The file is damaged or only partly there; "
            "download or copy it again."
        ) from e
    raise ModelFileError(
        f"{name!r} must be a file of `torch.save`; it begins with {start[:8]!r}. If "
        "PyTorch reads it, convert it: "
        '`torch.save(torch.load("old.pt", weights_only=True), "new.pt")`.'
    )


def _read_zip(
    file: io.BufferedIOBase, name: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise ModelFileError(
                f"{name!r} must be a file of `torch.save`; it is a zip file with "
                f"{len(pickles)} of data.pkl."
            )
        root = pickles[0].removesuffix("data.pkl")

        def read(member: str) -> bytes:
            # PyTorch stores; what unpacks to more than the file could fill a memory.
            if archive.getinfo(member).compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{member!r} is compressed")
            return archive.read(member)

        if f"{root}byteorder" in names and read(f"{root}byteorder") != b"little":
            raise ModelFileError(f"{name!r} must be little-endian; it is not.")
        tree = unpickle(io.BytesIO(read(pickles[0])), name, {})
        tensors, texts = flatten(tree, name)
        of = lambda storage: read(f"{root}data/{storage.key}")
        return _read_tensors(tensors, of, name), texts


def _read_legacy(
    file: io.BufferedIOBase, name: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    storages: dict[str, Storage] = {}
    following = lambda: unpickle(file, name, storages)
    magic, version, system = following(), following(), following()
    tree, keys = following(), following()
    if magic != _LEGACY_MAGIC or version != 1001 or not isinstance(keys, list):
        raise ValueError(f"protocol version {version!r}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelFileError(f"{name!r} must be little-endian; it is not.")
    tensors, texts = flatten(tree, name)
    wanted = {tensor.storage.key for tensor in tensors.values()}
    data: dict[str, bytes] = {}
    for key in map(str, keys):
        storage = storages[key]
        (size,) = struct.unpack("<q", _exactly(file, 8))
        if size != storage.size:
            raise ValueError(f"storage {key!r} has {size} of {storage.size} elements")
        content = _exactly(file, size * jnp.dtype(storage.dtype).itemsize)
        if key in wanted:
            data[key] = content
    return _read_tensors(tensors, lambda storage: data[storage.key], name), texts


def _exactly(file: io.BufferedIOBase, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"it ends {size - len(data)} bytes early")
    return data


def _read_tensors(
    tensors: Mapping[str, Tensor], read: Any, name: str
) -> dict[str, np.ndarray]:
    """**Arguments:**

    - `tensors`: Of the file.
    - `read`: The bytes of a storage.
    - `name`: Of the file, for the error text.
    """
    storages: dict[Storage, np.ndarray] = {}
    arrays = {}
    # Tied weights are there a few times; a thousand times, or with strides of zero,
    # they would fill a memory.
    wanted = sum(_size(t.dtype, *t.shape) for t in tensors.values())
    there = {t.storage for t in tensors.values()}
    if wanted > max(2**30, 8 * sum(_size(s.dtype, s.size) for s in there)):
        raise ModelFileError(
            f"{name!r} must hold tensors of about its own size; they unpack to "
            f"{wanted} bytes."
        )
    for key, tensor in tensors.items():
        storage = tensor.storage
        if storage not in storages:
            storages[storage] = np.frombuffer(read(storage), np.uint8)
            expected = storage.size * jnp.dtype(storage.dtype).itemsize
            if len(storages[storage]) != expected:
                raise ValueError(
                    f"storage {storage.key!r} has {len(storages[storage])} of "
                    f"{expected} bytes"
                )
        try:
            arrays[key] = tensor.read(storages[storage])
        except ValueError as e:
            raise ModelFileError(f"{key!r} of {name!r} cannot be read: {e}.") from e
    return arrays


def _size(dtype: str, *shape: int) -> int:
    """In bytes."""
    return math.prod(shape) * jnp.dtype(dtype).itemsize
