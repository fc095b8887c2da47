"""Opening the weights in the folder of a network: safetensors, or else PyTorch's."""

import pathlib
import re

import numpy as np

from ._errors import first_five, ModelFileError
from ._safetensors import read_json, TensorFile
from ._tensors import AbstractTensors
from ._torch_file import PickledFile
from ._variants import describe_files, find_weights, weight_kinds, WeightKind


# Names that are no files under Windows, whatever follows their first dot.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)\.")


class PickledFiles(AbstractTensors):
    """Reads what several files of PyTorch hold, the shards of one network."""

    def __init__(self, *paths: pathlib.Path):
        """**Arguments:**

        - `paths`: All shards.
        """
        self.name = str(paths[0])
        self.shapes = {}
        self.dtypes = {}
        self._files: dict[str, PickledFile] = {}
        for path in paths:
            file = PickledFile(path)
            self.shapes |= file.shapes
            self.dtypes |= file.dtypes
            self._files |= dict.fromkeys(file.shapes, file)

    def read_exactly(self, key: str) -> np.ndarray:
        return self._files[key].read_exactly(key)


def open_weights(
    folder: pathlib.Path, stem: str, variant: str | None = None
) -> AbstractTensors:
    """Opens the weights in a folder: one file, or shards.

    **Arguments:**

    - `folder`: Of one model.
    - `stem`: `"model"` or `"diffusion_pytorch_model"`.
    - `variant`: Of the weights, such as `"bf16"`. With `None` they are those without
        one, or else those in float16. Safetensors go before files of PyTorch, in which
        nothing is run.
    """
    for kind in weight_kinds(variant):
        reader = TensorFile if kind.ending == ".safetensors" else PickledFiles
        whole, index = find_weights(folder, stem, kind)
        if whole is not None:
            return reader(whole)
        if index is not None:
            return reader(*_shards(index, kind))
    name = stem if variant is None else f"{stem}.{variant}"
    there = describe_files([path.name for path in folder.glob("*")], stem)
    raise ModelFileError(
        f"{str(folder)!r} must hold {name}.safetensors; it does not.{there}"
    )


def _shards(index: pathlib.Path, kind: WeightKind) -> list[pathlib.Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{str(index)!r} must have a `weight_map`; it has none.")
    names = sorted({str(name) for name in weight_map.values()})
    pattern = rf"[\w-][\w.-]*{re.escape(kind.ending)}"
    paths = []
    for name in names:
        # An index from the internet must not name files elsewhere.
        is_plain = re.fullmatch(pattern, name, re.ASCII)
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
