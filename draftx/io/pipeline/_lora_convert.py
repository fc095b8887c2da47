"""A file of an adapter in another format, with its model or without."""

import os
import re
from collections.abc import Iterable, Mapping

from ...pipeline import Pipeline
from ..formats import first_five, ModelFileError
from ._lora import load_lora, lora_header, open_lora
from ._lora_about import SDXL_WIDTH, text_widths
from ._lora_arithmetic import read_factors
from ._lora_header import Base, check_metadata, kept
from ._lora_save import save_lora
from ._lora_spelling import published_name, SpelledNames
from ._lora_write import check_target, LoRAFormat, write_adapter


def convert_lora_file(
    path: str | os.PathLike,
    output: str | os.PathLike,
    format: LoRAFormat,
    *,
    pipeline: Pipeline | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    r"""Writes an adapter in another format; it adds to a model what it added before.

    Tensors become float32, and every $\alpha / r$ is multiplied in, as by
    [`draftx.save_lora`][]. What the header says of the training stays in it.

    **Arguments:**

    - `path`: As for [`draftx.load_lora`][].
    - `output`, `format`: As for [`draftx.save_lora`][].
    - `pipeline`: The model. Only files need it that number the blocks of the UNet as
        the original code does.
    - `metadata`: Texts to be added to the header.
    """
    target = check_target("output", output, format)
    added = check_metadata(metadata)
    if pipeline is not None:
        adapted = load_lora(pipeline, path)
        header = kept(lora_header(path)) | added
        save_lora(adapted, output, format=format, metadata=header)
        return
    file, pairs = open_lora(path, SpelledNames().find)
    widths = text_widths(file, pairs)
    if SDXL_WIDTH in widths or _is_deeper(pairs):
        raise ModelFileError(
            f"{file.name!r} must be a LoRA of Stable Diffusion 1.x or 2.x; it was "
            "trained on SDXL, which is not supported."
        )
    names = {layer: published_name(layer) for layer in pairs}
    if unknown := [layer.split(".", 1)[1] for layer, n in names.items() if n is None]:
        raise ModelFileError(
            f"Without a model, {file.name!r} must name its layers as diffusers, PEFT "
            f"or kohya's scripts do; {len(unknown)} of {len(pairs)} are not: "
            f"{first_five(unknown)}. Give the model, which they are compared with."
        )
    factors = {
        name: read_factors(file, layer, pairs[layer])
        for layer, name in names.items()
        if name is not None
    }
    base = Base(width=widths.pop() if len(widths) == 1 else None)
    write_adapter(target, format, factors, base, kept(file.metadata) | added)


def _is_deeper(layers: Iterable[str]) -> bool:
    """Whether some are of SDXL's second text encoder or its deeper transformers."""
    of_sdxl = re.compile(r"text_encoder_2\.|.*transformer_blocks[._][1-9]")
    return any(map(of_sdxl.match, layers))
