import math
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ...layers import AbstractLinear
from ...lora import iter_lora, with_lora
from ...models import iter_linears, map_linears
from ...pipeline import Pipeline
from ..formats import first_five, ModelFileError, read_json, TensorFile, write_tensors
from ._lora_keys import find_pairs, Pair


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
        kernel = (1, 1) if layer.is_conv else ()
        # Diffusers knows one word for a UNet and another for a text encoder.
        word = "lora" if name.startswith("unet.") else "lora_linear_layer"
        arrays[f"{name}.{word}.down.weight"] = down.reshape(*down.shape, *kernel)
        arrays[f"{name}.{word}.up.weight"] = up.reshape(*up.shape, *kernel)
    if not arrays:
        raise ValueError(
            "`pipeline` must carry a LoRA adapter; it has none. Add one with "
            "`draftx.add_lora`, or save the whole model with `draftx.save`."
        )
    write_tensors(path, arrays)


def load_lora(
    pipeline: Pipeline, path: str | os.PathLike, *, scale: float | int = 1.0
) -> Pipeline:
    r"""Puts the adapter of a file on a pipeline, in place of the one it has.

    **Arguments:**

    - `pipeline`: The model that the adapter was trained on.
    - `path`: A `.safetensors` file, or the folder it is in, as written by
        [`draftx.save_lora`][], diffusers, PEFT or kohya's scripts.
    - `scale`: Multiplies the update; 0 is the base model, 1 the tuned one.

    **Returns:**

    The pipeline with float32 `lora_down` and `lora_up`, every $\alpha / r$ and `scale`
    multiplied in. All tensors of the file are used, or a
    [`draftx.io.ModelFileError`][] says which could not be.
    """
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be finite; got {scale}.")
    file, adapter_config = _open(pathlib.Path(path))
    linears = iter_linears(pipeline)
    layers = {name: layer for name, layer in linears if name.startswith(_MODELS)}
    pairs = find_pairs(file, layers, adapter_config)
    file.check_dtypes([key for pair in pairs.values() for key in pair[:2]])
    _check_shapes(file, pairs, layers)
    arrays = {name: _read(file, pair, float(scale)) for name, pair in pairs.items()}
    return map_linears(
        lambda name, layer: with_lora(layer, *arrays.get(name, (None, None))), pipeline
    )


def _open(path: pathlib.Path) -> tuple[TensorFile, dict[str, Any] | None]:
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelFileError(
                f"`path` must be a .safetensors file; got {str(path)!r}. Pickles are "
                "not read."
            )
        return TensorFile(path), _adapter_config(path)
    for name in (_DIFFUSERS_NAME, _PEFT_NAME):
        if (path / name).is_file():
            return TensorFile(path / name), _adapter_config(path / name)
    got = "has neither" if path.is_dir() else "does not exist"
    raise ModelFileError(
        f"`path` must be a .safetensors file, or a folder with {_DIFFUSERS_NAME} or "
        f"{_PEFT_NAME}; {str(path)!r} {got}."
    )


def _adapter_config(path: pathlib.Path) -> dict[str, Any] | None:
    config = path.parent / _PEFT_CONFIG
    # The file beside belongs to PEFT's name only.
    return read_json(config) if path.name == _PEFT_NAME and config.is_file() else None


def _check_shapes(
    file: TensorFile, pairs: dict[str, Pair], layers: dict[str, AbstractLinear]
) -> None:
    wrong = []
    for name, pair in pairs.items():
        layer, down, up = layers[name], file.shapes[pair.down], file.shapes[pair.up]
        rank = down[0] if down else 0
        expected = ((rank, layer.in_features), (layer.out_features, rank))
        for key, shape, want in zip(pair[:2], (down, up), expected, strict=True):
            if shape not in (want, (*want, 1, 1)) or rank == 0:
                wrong.append(f"{key}: {shape}, not {want}")
    if wrong:
        raise ModelFileError(
            f"{file.name!r} must be a LoRA of this model; {len(wrong)} tensors have "
            f"another shape: {first_five(wrong)}. It was trained on another model."
        )


def _read(file: TensorFile, pair: Pair, scale: float) -> tuple[jax.Array, jax.Array]:
    down, up = (file.read(key, np.float32) for key in pair[:2])
    down, up = down.reshape(down.shape[:2]), up.reshape(up.shape[:2])
    factor = scale * (1.0 if pair.alpha is None else pair.alpha / len(down))
    return jax.device_put(down), jax.device_put(up * np.float32(factor))
