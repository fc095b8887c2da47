"""Reading and writing safetensors files, with errors that name the file."""

import collections
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp  # Teaches NumPy, hence safetensors, about bfloat16.
import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.numpy import save_file

from ._atomic import write_file
from ._errors import first_five, ModelFileError
from ._variants import describe_files, find_weights


_FLOATS = ("F64", "F32", "F16", "BF16")
# Names that are no files under Windows, whatever follows their first dot.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)\.")


class TensorFile:
    """Reads what one safetensors file, or several shards of one, hold.

    Only the headers are read at first: names, shapes and dtypes.
    """

    def __init__(self, *paths: pathlib.Path):
        """**Arguments:**

        - `paths`: The file, or all shards.
        """
        self.name = str(paths[0])
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self._handles: dict[str, Any] = {}
        for path in paths:
            try:
                handle = safe_open(path, framework="np")
                for key in handle.keys():
                    part = handle.get_slice(key)
                    self.shapes[key] = tuple(part.get_shape())
                    self.dtypes[key] = str(part.get_dtype())
                    self._handles[key] = handle
            except (SafetensorError, OSError, ValueError, KeyError) as e:
                raise ModelFileError(
                    f"{str(path)!r} cannot be read as safetensors: {e}. The file is "
                    "damaged or only partly there; download or copy it again."
                ) from e
            self.metadata |= handle.metadata() or {}
            _check_header(path)

    def check_dtypes(self, keys: list[str]) -> None:
        """Raises unless the tensors named are floats of at least 16 bits."""
        wrong = [
            f"{k}: {self.dtypes[k]}" for k in keys if self.dtypes[k] not in _FLOATS
        ]
        if wrong:
            raise ModelFileError(
                f"{self.name!r} must hold weights in one of {list(_FLOATS)}; "
                f"{len(wrong)} are not: {first_five(wrong)}. Quantized files are not "
                "supported; use the float16, bfloat16 or float32 one."
            )

    def read(self, key: str, dtype: Any) -> np.ndarray:
        """Reads one tensor, cast; a value that is not finite is an error.

        **Arguments:**

        - `key`: The name of the tensor.
        - `dtype`: To be cast to.
        """
        array = self.read_exactly(key)
        with np.errstate(over="ignore"):
            cast = array.astype(dtype, copy=False)
        if not np.isfinite(cast).all():
            cause = "are not finite"
            if np.isfinite(array).all():
                cause = f"are too large for {jnp.dtype(dtype).name}"
            raise ModelFileError(
                f"{self.name!r} must hold finite weights; values of {key!r} {cause}."
            )
        return cast

    def read_exactly(self, key: str) -> np.ndarray:
        """Reads one tensor as it was written, whatever its dtype and values.

        **Arguments:**

        - `key`: The name of the tensor.
        """
        try:
            return self._handles[key].get_tensor(key)
        except (SafetensorError, OSError) as e:
            raise ModelFileError(
                f"{key!r} of {self.name!r} cannot be read: {e}."
            ) from e


def _check_header(path: pathlib.Path) -> None:
    """Raises if a name is there twice: readers differ in which of the two they take."""
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = collections.Counter(name for name, _ in pairs)
        twice.extend(name for name, count in counts.items() if count > 1)
        return dict(pairs)

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        # Its length and its syntax have been checked.
        json.loads(file.read(size), object_pairs_hook=unique)
    if twice:
        raise ModelFileError(
            f"{str(path)!r} must name each tensor once; {len(twice)} names are there "
            f"twice: {first_five(twice)}. Download or make it again."
        )


def open_weights(
    folder: pathlib.Path, stem: str, variant: str | None = None
) -> TensorFile:
    """Opens the weights in a folder: one file, or shards.

    **Arguments:**

    - `folder`: Of one model.
    - `stem`: `"model"` or `"diffusion_pytorch_model"`.
    - `variant`: Of the weights, such as `"bf16"`. With `None` they are those without
        one, or else those in float16.
    """
    for wanted in (None, "fp16") if variant is None else (variant,):
        whole, index = find_weights(folder, stem, wanted)
        if whole is not None:
            return TensorFile(whole)
        if index is not None:
            return TensorFile(*_shards(index))
    name = stem if variant is None else f"{stem}.{variant}"
    there = describe_files([path.name for path in folder.glob("*")], stem)
    raise ModelFileError(
        f"{str(folder)!r} must hold {name}.safetensors; it does not.{there}"
    )


def _shards(index: pathlib.Path) -> list[pathlib.Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{str(index)!r} must have a `weight_map`; it has none.")
    names = sorted({str(name) for name in weight_map.values()})
    paths = []
    for name in names:
        # An index from the internet must not name files elsewhere.
        is_plain = re.fullmatch(r"[\w-][\w.-]*\.safetensors", name, re.ASCII)
        if not is_plain or len(name) > 255 or _DEVICES.match(name):
            raise ModelFileError(
                f"{str(index)!r} must name files in its own folder; got {name[:300]!r}."
            )
        paths.append(index.parent / name)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelFileError(
            f"{str(index)!r} names {len(paths)} files; {len(missing)} are missing: "
            f"{first_five(missing)}. Download the folder again."
        )
    return paths


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

    **Arguments:**

    - `path`: The file.
    - `arrays`: Of any dtype.
    - `finite`: Whether every value must be finite.
    - `metadata`: Texts for the header.
    """
    header = {"format": "pt"} | dict(metadata or {})
    # The writer stores the memory of an array with strides as if it had none.
    contiguous = {k: np.asarray(a, order="C") for k, a in arrays.items()}
    wrong = [k for k, a in contiguous.items() if not np.isfinite(a).all()]
    if finite and wrong:
        raise ValueError(
            f"Weights to be saved must be finite; {len(wrong)} of {len(contiguous)} "
            f"arrays are not: {first_five(wrong)}. The training diverged; go back to "
            "an earlier checkpoint."
        )

    def write(temporary: pathlib.Path) -> None:
        try:
            save_file(contiguous, temporary, metadata=header)
        except SafetensorError as e:
            raise OSError(f"{str(path)!r} could not be written: {e}") from e

    write_file(path, write)
