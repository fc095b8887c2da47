"""The two containers of `torch.save`: a zip file, and what was before version 1.6."""

import io
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from ._beginnings import remedy
from ._errors import ModelFileError
from ._flatten import flatten
from ._unpickle import Storage, Tensor, unpickle


# What files of PyTorch before 1.6, or with the old format asked for, begin with.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Contents(NamedTuple):
    """Says what a file holds: tensors and strings by name, and how to read a storage.

    `read` is given the file, open, and a storage, and gives the bytes of that.
    """

    tensors: dict[str, Tensor]
    texts: dict[str, str]
    read: Callable[[io.BufferedIOBase, Storage], bytes]


def read_contents(
    file: io.BufferedIOBase, name: str, *, is_checkpoint: bool
) -> Contents:
    """Reads the pickle of a file, and finds its storages without reading them.

    **Arguments:**

    - `file`: Open, at its start.
    - `name`: Of the file, for error texts.
    - `is_checkpoint`: As for `unpickle`.

    Raises a `ModelFileError`, or what a damaged file makes its readers raise.
    """
    start = file.read(len(_LEGACY_START))
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        return _of_zip(file, name, is_checkpoint)
    if start == _LEGACY_START:
        return _of_legacy(file, name, is_checkpoint)
    again = (
        "If PyTorch reads it, convert it: "
        '`torch.save(torch.load("old.pt", weights_only=True), "new.pt")`.'
    )
    raise ModelFileError(
        f"{name!r} must be a file of `torch.save`; it begins with {start[:8]!r}. "
        f"{remedy(pathlib.Path(name), again)}"
    )


def _of_zip(file: io.BufferedIOBase, name: str, is_checkpoint: bool) -> Contents:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise ModelFileError(
                f"{name!r} must be a file of `torch.save`; it is a zip file with "
                f"{len(pickles)} of data.pkl."
            )
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in names and _member(archive, order) != b"little":
            raise ModelFileError(f"{name!r} must be little-endian; it is not.")
        pickle = io.BytesIO(_member(archive, pickles[0]))
        tree = unpickle(pickle, name, {}, is_checkpoint=is_checkpoint)
        tensors, texts = flatten(tree, name)
        members: dict[str, zipfile.ZipInfo] = {}
        for storage in dict.fromkeys(tensor.storage for tensor in tensors.values()):
            info = archive.getinfo(f"{root}data/{storage.key}")
            _check_stored(info)
            if info.file_size != _bytes(storage):
                raise ValueError(
                    f"storage {storage.key!r} has {info.file_size} of "
                    f"{_bytes(storage)} bytes"
                )
            members[storage.key] = info
    # The archive's table is not read again for each of a thousand members.
    return Contents(tensors, texts, lambda file, s: _content(file, members[s.key]))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    _check_stored(archive.getinfo(name))
    return archive.read(name)


def _check_stored(info: zipfile.ZipInfo) -> None:
    # PyTorch stores; what unpacks to more than the file could fill a memory.
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename!r} is compressed")


def _content(file: io.BufferedIOBase, info: zipfile.ZipInfo) -> bytes:
    file.seek(info.header_offset)
    start = _exactly(file, 30)
    if start[:4] != b"PK\x03\x04":
        raise ValueError(f"{info.filename!r} is not where the archive says")
    name_size, extra_size = struct.unpack("<HH", start[26:])
    file.seek(name_size + extra_size, os.SEEK_CUR)
    data = _exactly(file, info.file_size)
    if zlib.crc32(data) != info.CRC:
        raise ValueError(f"{info.filename!r} has not the archive's checksum")
    return data


def _of_legacy(file: io.BufferedIOBase, name: str, is_checkpoint: bool) -> Contents:
    storages: dict[str, Storage] = {}
    following = lambda: unpickle(file, name, storages, is_checkpoint=is_checkpoint)
    magic, version, system = following(), following(), following()
    tree, keys = following(), following()
    if magic != _LEGACY_MAGIC or version != 1001 or not isinstance(keys, list):
        raise ValueError(f"protocol version {version!r}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelFileError(f"{name!r} must be little-endian; it is not.")
    tensors, texts = flatten(tree, name)
    places: dict[str, int] = {}
    place = file.tell()
    end = file.seek(0, os.SEEK_END)
    for key in map(str, keys):
        storage = storages[key]
        file.seek(place)
        (size,) = struct.unpack("<q", _exactly(file, 8))
        if size != storage.size:
            raise ValueError(f"storage {key!r} has {size} of {storage.size} elements")
        places[key] = place + 8
        place += 8 + _bytes(storage)
        if place > end:
            raise EOFError(f"it ends {place - end} bytes early")

    def read(file: io.BufferedIOBase, storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return _exactly(file, _bytes(storage))

    # What the pickle names and the file does not have is damage, found before reading.
    for tensor in tensors.values():
        places[tensor.storage.key]
    return Contents(tensors, texts, read)


def _exactly(file: io.BufferedIOBase, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"it ends {size - len(data)} bytes early")
    return data


def _bytes(storage: Storage) -> int:
    return storage.size * jnp.dtype(storage.dtype).itemsize
