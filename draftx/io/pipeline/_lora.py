import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from ..._checks import finite
from ..._custom_types import RealLike
from ...layers import AbstractAffine
from ...lora import with_lora
from ...models import iter_layers, map_layers, Parameter
from ...pipeline import Pipeline
from ..formats import (
    files_there,
    first_five,
    ModelFileError,
    read_json,
    TensorFile,
)
from ._lora_keys import find_pairs, FindLayer, Pair
from ._lora_names import LayerNames
from ._lora_write import DIFFUSERS_NAME, PEFT_CONFIG, PEFT_NAME, PEFT_TEXT


_MODELS = ("unet.", "text_encoder.")
_BASE = "base_model_name_or_path"  # In PEFT's config.


def load_lora(
    pipeline: Pipeline, path: str | os.PathLike, *, scale: RealLike = 1.0
) -> Pipeline:
    r"""Puts the adapter of a file on a pipeline, in place of the one it has.

    **Arguments:**

    - `pipeline`: The model that the adapter was trained on.
    - `path`: A `.safetensors` file, or the folder it is in, as written by
        [`draftx.save_lora`][], diffusers, PEFT or kohya's scripts, of linear layers and
        of convolutions, as LCM-LoRA is.
    - `scale`: Multiplies the update; 0 is the base model, 1 the tuned one.

    **Returns:**

    The pipeline with float32 `lora_down` and `lora_up`, every $\alpha / r$ and `scale`
    multiplied in. $\alpha$ is what stands beside the factors or in PEFT's config, else
    $r$, with a warning if the header has another number that may be meant. All tensors
    of the file are used, or a [`draftx.io.ModelFileError`][] says which could not be.
    """
    scale = finite("scale", scale)
    named = iter_layers(pipeline)
    layers = {name: layer for name, layer in named if name.startswith(_MODELS)}
    file, pairs = open_lora(path, LayerNames(layers).find)
    _check_shapes(file, pairs, layers)
    arrays = {
        name: _read(file, pair, layers[name], scale) for name, pair in pairs.items()
    }
    return map_layers(
        lambda name, layer: with_lora(layer, *arrays.get(name, (None, None))), pipeline
    )


def factor_parameters(
    layer: AbstractAffine, keys: Iterable[str], factors: Iterable[Any]
) -> list[Parameter]:
    """Describes the two factors of a layer as files have them.

    The second is a 1x1 convolution where the layer is a convolution.

    **Arguments:**

    - `layer`: With or without an adapter.
    - `keys`: Of the two.
    - `factors`: The two, or their shapes.
    """
    layouts = (layer.layout, "plain" if layer.layout == "plain" else "pointwise")
    return [*map(Parameter, keys, factors, layouts)]


def open_lora(
    path: str | os.PathLike, find_layer: FindLayer
) -> tuple[TensorFile, dict[str, Pair]]:
    """Opens the file of an adapter and finds what its tensors are.

    **Arguments:**

    - `path`: As for `load_lora`.
    - `find_layer`: Finds the layer that a name means.

    **Returns:**

    The file, and a pair of tensors for each layer.
    """
    file, own, beside = _open(path)
    pairs = find_pairs(file, find_layer, own, beside=beside)
    file.check_dtypes([key for pair in pairs.values() for key in pair[:2]])
    return file, pairs


def lora_header(path: str | os.PathLike) -> dict[str, str]:
    """Reads what the header of an adapter's file says, whatever its tensors are.

    **Arguments:**

    - `path`: As for `load_lora`.
    """
    return _open(path)[0].metadata


def _open(
    path: str | os.PathLike,
) -> tuple[TensorFile, dict[str, Any] | None, dict[str, Any] | None]:
    """The file or files, with the configs that are read with them and beside them."""
    paths = _find_files(pathlib.Path(path))
    file = TensorFile(*paths)
    own, beside = _configs(paths)
    said = own or {}
    if base := said.get(_BASE) or said.get(f"unet.{_BASE}"):
        file.metadata.setdefault(_BASE, str(base))
    return file, own, beside


def _configs(
    paths: list[pathlib.Path],
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What PEFT's configs beside the files say, and what one says that PEFT, which has
    its own name for a file, would not read with this file."""
    found = [path.parent / PEFT_CONFIG for path in paths]
    configs = [read_json(path) if path.is_file() else None for path in found]
    if len(configs) == 1:
        config = configs[0]
        return (config, None) if paths[0].name == PEFT_NAME else (None, config)
    # As diffusers says it where one header speaks of several models.
    marked = {
        f"{model}{key}": value
        for model, config in zip(_MODELS, configs, strict=True)
        for key, value in (config or {}).items()
    }
    return marked, None


def _find_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The file of an adapter, or PEFT's for the UNet and for the text encoder."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelFileError(
                f"`path` must be a .safetensors file; got {str(path)!r}. Pickles are "
                "not read."
            )
        return [path]
    if (path / DIFFUSERS_NAME).is_file():
        return [path / DIFFUSERS_NAME]
    # As this package and as PEFT's own example lay them out.
    unet = [f for f in (path / PEFT_NAME, path / "unet" / PEFT_NAME) if f.is_file()]
    text = path / PEFT_TEXT / PEFT_NAME
    if found := [*unet[:1], *([text] if text.is_file() else [])]:
        return found
    got = "has neither" if path.is_dir() else "does not exist"
    raise ModelFileError(
        f"`path` must be a .safetensors file, or a folder with {DIFFUSERS_NAME} or "
        f"{PEFT_NAME}; {str(path)!r} {got}.{files_there(path)}"
    )


def _factors(file: TensorFile, pair: Pair, layer: AbstractAffine) -> list[Parameter]:
    """What the two tensors of a pair must be, if their rank is that of the first."""
    rank = max((1, *file.shapes[pair.down][:1]))
    empty = (jax.ShapeDtypeStruct(s, np.float32) for s in layer.factor_shapes(rank))
    return factor_parameters(layer, (pair.down, pair.up), empty)


def _check_shapes(
    file: TensorFile, pairs: dict[str, Pair], layers: dict[str, AbstractAffine]
) -> None:
    wrong = []
    for name, pair in pairs.items():
        for part in _factors(file, pair, layers[name]):
            shape, want = file.shapes[part.key], part.file_shape
            # A 1x1 convolution and a matrix are the same, and files differ.
            plain = want if part.layout == "conv" else want[:2]
            accepted = (want,) if part.layout == "conv" else (plain, (*plain, 1, 1))
            if shape not in accepted or 0 in shape:
                wrong.append(f"{part.key}: {shape}, not {plain}")
    if wrong:
        raise ModelFileError(
            f"{file.name!r} must be a LoRA of this model; {len(wrong)} tensors have "
            f"another shape: {first_five(wrong)}. It was trained on another model."
        )


def _read(
    file: TensorFile, pair: Pair, layer: AbstractAffine, scale: float
) -> tuple[jax.Array, jax.Array]:
    down, up = (
        part.from_file(file.read(part.key, np.float32))
        for part in _factors(file, pair, layer)
    )
    factor = scale * (1.0 if pair.alpha is None else pair.alpha / up.shape[1])
    return jax.device_put(down), jax.device_put(up * np.float32(factor))
