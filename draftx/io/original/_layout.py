"""Where in a single file each tensor of ours is, and what is made of ours for one."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...models import (
    AutoencoderKL,
    CLIPTextModel,
    named_parameters,
    Parameter,
    UNet2DConditionModel,
)
from ..formats import AbstractTensors
from ._names import original_text_key, original_unet_key, original_vae_key


class Place(NamedTuple):
    """Says where in a file a tensor is.

    **Arguments:**

    - `key`: The name there.
    - `third`: Which third of the rows under that name; `None` is all.
    """

    key: str
    third: int | None = None


def places(model: Any, *, is_open_clip: bool) -> dict[str, Place]:
    """Lists where the tensors of a network are in a single file, by our names.

    **Arguments:**

    - `model`: A UNet, an autoencoder or a text encoder; its arrays may be shapes only.
    - `is_open_clip`: Whether a text encoder is that of version 2, whose queries, keys
        and values are one matrix.
    """
    return {
        parameter.key: _place(model, parameter.key, is_open_clip)
        for parameter in named_parameters(model)
    }


def _place(model: Any, key: str, is_open_clip: bool) -> Place:
    if isinstance(model, UNet2DConditionModel):
        return Place(original_unet_key(key, model.config))
    if isinstance(model, AutoencoderKL):
        return Place(original_vae_key(key, len(model.config.block_out_channels)))
    assert isinstance(model, CLIPTextModel)
    theirs = original_text_key(key, is_open_clip=is_open_clip)
    if theirs.endswith(("in_proj_weight", "in_proj_bias")):
        return Place(theirs, "qkv".index(key.rsplit("_proj.", 1)[0][-1]))
    return Place(theirs)


class PartOfFile(AbstractTensors):
    """Reads the tensors of one network from a single file, by our names."""

    def __init__(self, file: AbstractTensors, places: Mapping[str, Place]):
        """**Arguments:**

        - `file`: The whole.
        - `places`: Of the tensors of the network that the file has.
        """
        self.name = file.name
        self._file = file
        self._places = places
        self.dtypes = {ours: file.dtypes[p.key] for ours, p in places.items()}
        self.shapes = {ours: self._shape(place) for ours, place in places.items()}

    def _shape(self, place: Place) -> tuple[int, ...]:
        shape = self._file.shapes[place.key]
        if place.third is None or not shape:
            return shape
        return (shape[0] // 3, *shape[1:])

    def read_exactly(self, key: str) -> np.ndarray:
        place = self._places[key]
        array = self._file.read_exactly(place.key)
        if place.third is None:
            return array
        return np.split(array, 3)[place.third]


class OriginalTensors(Mapping[str, np.ndarray]):
    """Makes the tensors of a single file of a network, each when it is asked for."""

    def __init__(self, model: Any, *, is_open_clip: bool = False):
        """**Arguments:**

        - `model`, `is_open_clip`: As for `places`.
        """
        self._is_vae = isinstance(model, AutoencoderKL)
        self._parts: dict[str, list[Parameter]] = {}
        found = places(model, is_open_clip=is_open_clip)
        for parameter in named_parameters(model):
            self._parts.setdefault(found[parameter.key].key, []).append(parameter)
        order = lambda p: found[p.key].third or 0
        self._parts = {key: sorted(ps, key=order) for key, ps in self._parts.items()}

    def __getitem__(self, key: str) -> np.ndarray:
        arrays = [parameter.to_file() for parameter in self._parts[key]]
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        # The autoencoder's attention is made of 1x1 convolutions there.
        is_attention = self._is_vae and ".attn_1." in key and array.ndim == 2
        return array[..., None, None] if is_attention else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
