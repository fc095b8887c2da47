"""Sums of adapters as files, without the model that they belong to."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..._checks import finite
from ..._custom_types import RealLike
from ..formats import first_five, ModelFileError, TensorFile, write_tensors
from ._lora import open_lora
from ._lora_about import BASE_MODEL_FIELDS
from ._lora_keys import check_factors, Pair
from ._lora_spelling import SpelledNames, spelling


def mix_lora_files(
    paths: Sequence[str | os.PathLike],
    weights: Sequence[RealLike],
    output: str | os.PathLike,
) -> None:
    r"""Writes one adapter whose update is the weighted sum of those of some files.

    As [`draftx.mix_lora`][] does it, the factors side by side, but no model is needed.
    One file is scaled so. Every $\alpha / r$ is multiplied in, as by
    [`draftx.save_lora`][], and tensors are float32, with the names of diffusers'
    scripts or, if the files are of kohya's, of those. What all files say of their base
    model stays in the header.

    **Arguments:**

    - `paths`: Each as for [`draftx.load_lora`][]. They must name layers in the same
        way.
    - `weights`: One finite number for each.
    - `output`: Ends in `.safetensors`; a file there already is replaced.
    """
    if len(paths) == 0 or len(paths) != len(weights):
        raise ValueError(
            "`weights` must hold one number for each of `paths`, and there must be at "
            f"least one; got {len(weights)} weights for {len(paths)} paths."
        )
    numbers = [finite("weights", weight) for weight in weights]
    output = pathlib.Path(output)
    if output.suffix != ".safetensors":
        raise ValueError(f"`output` must end in .safetensors; got {str(output)!r}.")
    opened = [open_lora(path, SpelledNames().find) for path in paths]
    style = _style(opened)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for (file, pairs), weight in zip(opened, numbers, strict=True):
        for layer, pair in pairs.items():
            parts.setdefault(layer, []).append(read_factors(file, layer, pair, weight))
    arrays = {}
    is_sdxl = any(layer.startswith("text_encoder_2.") for layer in parts)
    for layer, factors in parts.items():
        down, up = _side_by_side(layer, factors)
        start, end = _named(layer, style, is_sdxl)
        # Without an alpha, which all readers take for the rank. Of alphas that differ
        # from layer to layer diffusers makes other scales.
        arrays[f"{start}.{end}down.weight"] = down
        arrays[f"{start}.{end}up.weight"] = up
    write_tensors(output, arrays, metadata=_common([f.metadata for f, _ in opened]))


def _style(opened: Sequence[tuple[TensorFile, Mapping[str, Pair]]]) -> str:
    """How all files spell layers, if they agree."""
    by_file = {
        file.name: {spelling(layer) for layer in pairs} - {""} for file, pairs in opened
    }
    styles = set().union(*by_file.values())
    if len(styles) > 1 or styles == {"original"}:
        said = ", ".join(f"{n!r}: {'/'.join(sorted(s))}" for n, s in by_file.items())
        raise ModelFileError(
            "Without a model, files must name their layers in one way, as diffusers or "
            f"as kohya's scripts do; got {said}. Give the model, whose names they are "
            "compared with."
        )
    return styles.pop() if styles else "diffusers"


def read_factors(
    file: TensorFile, layer: str, pair: Pair, weight: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Reads both factors of a layer as they are stored, in float32.

    **Arguments:**

    - `file`: Of the adapter.
    - `layer`: For error texts.
    - `pair`: Where they are. Its $\alpha / r$ is multiplied into the second.
    - `weight`: Multiplied in, too.
    """
    check_factors(file, layer, pair)
    down, up = (file.read(key, np.float32) for key in (pair.down, pair.up))
    scale = 1.0 if pair.alpha is None else pair.alpha / down.shape[0]
    return down, up * np.float32(weight * scale)


def _side_by_side(
    layer: str, factors: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    sides = []
    for axis, arrays in enumerate(zip(*factors, strict=True)):
        # A 1x1 convolution and a matrix are the same, and files differ.
        most = max(array.ndim for array in arrays)
        alike = [
            array.reshape(array.shape + (1,) * (most - array.ndim)) for array in arrays
        ]
        shapes = {array.shape[:axis] + array.shape[axis + 1 :] for array in alike}
        if len(shapes) > 1:
            raise ModelFileError(
                "The files must be adapters of one model; the tensors of "
                f"{layer!r} have the shapes "
                f"{first_five([str(array.shape) for array in arrays])}."
            )
        sides.append(np.concatenate(alike, axis))
    return sides[0], sides[1]


def _named(layer: str, style: str, is_sdxl: bool) -> tuple[str, str]:
    """The names of a layer and of its factors, as files of this style have them."""
    model, bare = layer.split(".", 1)
    if style == "kohya":
        text = "te1" if is_sdxl else "te"
        short = {"unet": "unet", "text_encoder": text, "text_encoder_2": "te2"}[model]
        return f"lora_{short}_{bare}", "lora_"
    # Diffusers knows one word for a UNet and another for a text encoder.
    return layer, "lora." if model == "unet" else "lora_linear_layer."


def _common(headers: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all headers say of the base model."""
    first = headers[0]
    return {
        key: first[key]
        for key in BASE_MODEL_FIELDS
        if key in first and all(h.get(key) == first[key] for h in headers)
    }
