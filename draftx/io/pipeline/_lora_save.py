import os
from collections.abc import Iterator, Mapping

import numpy as np

from ...lora import iter_lora
from ...pipeline import Pipeline
from ._lora import factor_parameters
from ._lora_header import base_of, check_metadata
from ._lora_write import check_target, Factors, LoRAFormat, write_adapter


_MODELS = ("unet.", "text_encoder.")


def save_lora(
    pipeline: Pipeline,
    path: str | os.PathLike,
    *,
    format: LoRAFormat = "diffusers",
    metadata: Mapping[str, str] | None = None,
) -> None:
    r"""Writes the adapter alone, for draftx and for programs of others.

    [`draftx.load_lora`][] reads all formats. The factor $\alpha / r$ is multiplied into
    `lora_up`, since readers differ in where they look for $\alpha$: what they find is
    $r$.

    **Arguments:**

    - `pipeline`: With an adapter.
    - `path`: A name ending in `.safetensors`; what is there already is replaced. In
        diffusers' format also a folder, which gets a
        `pytorch_lora_weights.safetensors`, and in PEFT's always a folder.
    - `format`: `"diffusers"`, for `pipe.load_lora_weights(path)`; `"kohya"`, for A1111,
        ComfyUI and kohya's scripts; or `"peft"`, for
        `PeftModel.from_pretrained(pipe.unet, path)`, with the text encoder's adapter in
        the folder `text_encoder` inside, if it has one.
    - `metadata`: Texts for the header, such as `base_model`, `reward`,
        `trigger_words`, `license`, where kohya's format and PEFT's have them too.
    """
    target = check_target("path", path, format)
    metadata = check_metadata(metadata)
    factors = dict(_factors(pipeline))
    if not factors:
        raise ValueError(
            "`pipeline` must carry a LoRA adapter; it has none. Add one with "
            "`draftx.add_lora`, or save the whole model with `draftx.save`."
        )
    write_adapter(target, format, factors, base_of(pipeline), metadata)


def _factors(pipeline: Pipeline) -> Iterator[tuple[str, Factors]]:
    for name, layer in iter_lora(pipeline):
        if not name.startswith(_MODELS):
            raise ValueError(
                "`pipeline` must have LoRA in the UNet and the text encoder only; "
                f"{name!r} has it, which no format of LoRA files knows."
            )
        down, up = (np.asarray(x, np.float32) for x in (layer.lora_down, layer.lora_up))
        if layer.lora_scale is not None:
            up = up * np.asarray(layer.lora_scale, np.float32)
        parts = factor_parameters(layer, ("down", "up"), (down, up))
        yield name, (parts[0].to_file(), parts[1].to_file())
