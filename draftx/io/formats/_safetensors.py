"""Reading and writing safetensors files, with errors that name the file."""

import collections
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import safe_open, SafetensorError

from ._atomic import sweep_of, write_file
from ._beginnings import remedy
from ._errors import first_five, ModelFileError, shown
from ._tensors import AbstractTensors, dtype_name, DTYPES


class TensorFile(AbstractTensors):
    """Reads what one safetensors file, or several shards of one, hold.

    Only the headers are read at first. Tensors are read from the file, not from a
    mapping of it into memory, whose pages would stay beside what is made of them.
    """

    def __init__(self, *paths: pathlib.Path):
        """**Arguments:**

        - `paths`: The file, or all shards.
        """
        self.name = str(paths[0])
        self.shapes = {}
        self.dtypes = {}
        self.metadata: dict[str, str] = {}
        self._places: dict[str, tuple[pathlib.Path, int]] = {}
        for path in paths:
            try:
                # Checks that the tensors fill the file, without holes or overlap.
                with safe_open(path, framework="np") as handle:
                    for key in handle.keys():
                        part = handle.get_slice(key)
                        self.shapes[key] = tuple(part.get_shape())
                        self.dtypes[key] = str(part.get_dtype())
                    self.metadata |= handle.metadata() or {}
            except (SafetensorError, OSError, ValueError, KeyError) as e:
                raise ModelFileError(
                    f"{str(path)!r} cannot be read as safetensors: {shown(str(e))}. "
                    f"{remedy(path)}"
                ) from e
            for key, start in _offsets(path).items():
                self._places[key] = (path, start)

    def read_exactly(self, key: str) -> np.ndarray:
        path, start = self._places[key]
        shape, dtype = self.shapes[key], DTYPES.get(self.dtypes[key])
        if dtype is None:
            raise ModelFileError(
                f"{key!r} of {self.name!r} cannot be read: it is {self.dtypes[key]}."
            )
        size = math.prod(shape)
        try:
            flat = np.fromfile(path, dtype, size, offset=start)
        except OSError as e:
            raise ModelFileError(
                f"{key!r} of {self.name!r} cannot be read: {e}."
            ) from e
        if flat.size != size:
            raise ModelFileError(
                f"{key!r} of {self.name!r} cannot be read: the file has become shorter."
            )
        return flat.reshape(shape)


def _offsets(path: pathlib.Path) -> dict[str, int]:
    """Where each tensor begins; a name that is there twice is an error, for readers
    differ in which of the two they take."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = collections.Counter(name for name, _ in pairs)
        twice.extend(name for name, count in counts.items() if count > 1)
        return dict(pairs)

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        # Its length and its syntax have been checked.
        header = json.loads(file.read(size), object_pairs_hook=unique)
    if twice:
        raise ModelFileError(
            f"{str(path)!r} must name each tensor once; {len(twice)} names are there "
            f"twice: {first_five(twice)}. Download or make it again."
        )
    header.pop("__metadata__", None)
    return {key: 8 + size + entry["data_offsets"][0] for key, entry in header.items()}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    **Arguments:**

    - `path`: Of the file.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        raise ModelFileError(f"{str(path)!r} is missing.") from e
    except (OSError, ValueError, RecursionError) as e:
        raise ModelFileError(f"{str(path)!r} cannot be read as JSON: {e}.") from e
    if not isinstance(content, dict):
        raise ModelFileError(
            f"{str(path)!r} must hold a JSON object; got a {type(content).__name__}."
        )
    return content


def write_tensors(
    path: pathlib.Path,
    arrays: Mapping[str, Any],
    *,
    finite: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, whole or not at all.

    One array after the other is taken to the host, and forgotten when it is written.

    **Arguments:**

    - `path`: The file.
    - `arrays`: Of any dtype. The mapping may make them when they are asked for, so
        long as it makes the same each time.
    - `finite`: Whether every value must be finite.
    - `metadata`: Texts for the header.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | dict(metadata or {})}
    wrong, about = [], {}
    for key in arrays:
        array = np.asarray(arrays[key])
        if finite and not np.isfinite(array).all():
            wrong.append(key)
        name = dtype_name(array.dtype)
        if name not in DTYPES:
            raise ValueError(
                f"`arrays` must have dtypes that safetensors knows; {key!r} has {name}."
            )
        of_array = dict(dtype=name, shape=list(array.shape))
        about[key] = (array.dtype.itemsize, array.nbytes, of_array)
    # The widest first, so that each begins at a multiple of its own width.
    order = sorted(arrays, key=lambda key: (-about[key][0], key))
    end = 0
    for key in order:
        _, size, of_array = about[key]
        header[key] = of_array | dict(data_offsets=[end, end + size])
        end += size
    if wrong:
        raise ValueError(
            f"Weights to be saved must be finite; {len(wrong)} of {len(arrays)} "
            f"arrays are not: {first_five(wrong)}. If a training diverged, go back to "
            "an earlier checkpoint; if they are too large for their dtype, as an "
            "adapter makes them by a large scale, take a smaller one, or bfloat16."
        )
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for key in order:
                # The bytes of an array with strides are not in the order of its shape,
                # and those of each number may be the other way round.
                array = np.asarray(arrays[key], order="C")
                array = array.astype(array.dtype.newbyteorder("="), copy=False)
                # Unlike `tofile`, this says why it cannot.
                file.write(array.reshape(-1).view(np.uint8).data)

    sweep_of(path)
    write_file(path, write)
