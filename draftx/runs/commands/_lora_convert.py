"""`draftx lora convert`: an adapter in the format of another program."""

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from ...io import convert_lora_file, load
from .._busy import Busy
from ._outputs import check_new


_arg = tyro.conf.arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConvertOptions:
    """Writes an adapter in another format: it changes a model as it did before."""

    file: Annotated[
        tyro.conf.Positional[str],
        _arg(metavar="IN", help="A .safetensors file, or its folder."),
    ]
    output: Annotated[
        tyro.conf.Positional[str],
        _arg(
            metavar="OUT",
            help="A new file that ends in .safetensors, or for peft a new folder.",
        ),
    ]
    format: Annotated[
        Literal["diffusers", "kohya", "peft"],
        _arg(help="kohya is what A1111 and ComfyUI open."),
    ]
    model: Annotated[
        str | None,
        _arg(
            help="'tiny', a folder, the hub's name or a single file of the model: only "
            "needed where layers are named as in the original code, "
            "input_blocks_1_1_..."
        ),
    ] = None
    trigger_words: Annotated[
        str | None, _arg(help="What prompts are to have, for the header.")
    ] = None


def convert(options: LoraConvertOptions) -> None:
    """Writes an adapter in another format, and says where it is.

    **Arguments:**

    - `options`: Of the command line.
    """
    source, output = pathlib.Path(options.file), pathlib.Path(options.output)
    if not source.exists():
        raise ValueError(
            f"`file` must be that of an adapter, or its folder; {options.file!r} does "
            "not exist."
        )
    if output.resolve() == source.resolve():
        raise ValueError(
            f"`output` must be another name than that of `file`; got {options.output!r}"
            " for both."
        )
    if options.format != "peft" and output.suffix != ".safetensors":
        raise ValueError(f"`output` must end in .safetensors; got {options.output!r}.")
    check_new(output)
    pipeline = None
    if options.model is not None:
        with Busy(f"loading {options.model}"):
            pipeline = load(options.model)
    words = options.trigger_words
    convert_lora_file(
        source,
        output,
        options.format,
        pipeline=pipeline,
        metadata=None if words is None else {"trigger_words": words},
    )
    print(f"the adapter is in {options.output}")
