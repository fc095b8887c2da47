import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from ..._checks import finite
from ..._custom_types import RealLike
from ...layers import AbstractAffine
from ...lora import iter_lora, with_lora
from ...models import iter_layers, map_layers, Parameter
from ...pipeline import Pipeline
from ..formats import first_five, ModelFileError, read_json, TensorFile, write_tensors
from ._lora_keys import find_pairs, FindLayer, Pair
from ._lora_names import LayerNames


_DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
_PEFT_NAME, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MODELS = ("unet.", "text_encoder.")


def save_lora(pipeline: Pipeline, path: str | os.PathLike) -> None:
    r"""Writes the adapter alone, in the format of diffusers' training scripts.

    `pipe.load_lora_weights(path)` of diffusers and [`draftx.load_lora`][] read it. The
    factor $\alpha / r$ is multiplied into `lora_up`, since readers differ in where they
    look for $\alpha$.

    **Arguments:**

    - `pipeline`: With an adapter.
    - `path`: A name ending in `.safetensors`, or a folder, which gets a
        `pytorch_lora_weights.safetensors`. A file there already is replaced.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        if path.is_file():
            raise ValueError(
                "`path` must end in .safetensors or be a folder; got the file "
                f"{str(path)!r}."
            )
        path = path / _DIFFUSERS_NAME
    arrays: dict[str, np.ndarray] = {}
    for name, layer in iter_lora(pipeline):
        if not name.startswith(_MODELS):
            raise ValueError(
                "`pipeline` must have LoRA in the UNet and the text encoder only; "
                f"{name!r} has it, which no format of LoRA files knows."
            )
        down, up = (np.asarray(x, np.float32) for x in (layer.lora_down, layer.lora_up))
        if layer.lora_scale is not None:
            up = up * np.asarray(layer.lora_scale, np.float32)
        # Diffusers knows one word for a UNet and another for a text encoder.
        word = "lora" if name.startswith("unet.") else "lora_linear_layer"
        keys = (f"{name}.{word}.{side}.weight" for side in ("down", "up"))
        for part in _parts(layer, keys, (down, up)):
            arrays[part.key] = part.to_file()
    if not arrays:
        raise ValueError(
            "`pipeline` must carry a LoRA adapter; it has none. Add one with "
            "`draftx.add_lora`, or save the whole model with `draftx.save`."
        )
    write_tensors(path, arrays)


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


def _parts(
    layer: AbstractAffine, keys: Iterable[str], factors: Iterable[Any]
) -> list[Parameter]:
    """The two factors of a layer as files have them: the second is a 1x1 convolution
    where the layer is a convolution."""
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
    path = _find_file(pathlib.Path(path))
    file = TensorFile(path)
    config = path.parent / _PEFT_CONFIG
    config = read_json(config) if config.is_file() else None
    # PEFT reads it with its own name of a file only.
    own, beside = (config, None) if path.name == _PEFT_NAME else (None, config)
    pairs = find_pairs(file, find_layer, own, beside=beside)
    file.check_dtypes([key for pair in pairs.values() for key in pair[:2]])
    return file, pairs


def _find_file(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelFileError(
                f"`path` must be a .safetensors file; got {str(path)!r}. Pickles are "
                "not read."
            )
        return path
    for name in (_DIFFUSERS_NAME, _PEFT_NAME):
        if (path / name).is_file():
            return path / name
    got = "has neither" if path.is_dir() else "does not exist"
    others = sorted(p.name for p in path.glob("*.safetensors"))
    hint = f" Files that are there are passed by name: {others[:5]}." if others else ""
    raise ModelFileError(
        f"`path` must be a .safetensors file, or a folder with {_DIFFUSERS_NAME} or "
        f"{_PEFT_NAME}; {str(path)!r} {got}.{hint}"
    )


def _factors(file: TensorFile, pair: Pair, layer: AbstractAffine) -> list[Parameter]:
    """What the two tensors of a pair must be, if their rank is that of the first."""
    rank = (file.shapes[pair.down][:1] or (0,))[0]
    empty = (jax.ShapeDtypeStruct(s, np.float32) for s in layer.factor_shapes(rank))
    return _parts(layer, (pair.down, pair.up), empty)


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
