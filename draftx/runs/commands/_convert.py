"""`draftx convert`: a model as another program wants it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from ...io import (
    check_saved,
    EMBEDDED_MODELS,
    is_repo_id,
    load,
    load_lora,
    published_config,
    save,
)
from ...lora import merge_lora
from ...pipeline import Pipeline
from .._busy import Busy
from ._options import parse
from ._outputs import check_new_model, size_text


_arg = tyro.conf.arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Writes a model as a folder of diffusers, or as a single file.

    What is written is read again, and compared tensor by tensor.
    """

    source: Annotated[
        tyro.conf.Positional[str],
        _arg(
            metavar="IN",
            help="'tiny', a folder of diffusers, the hub's name, or a single file, "
            ".safetensors or .ckpt. Nothing in a pickle is run.",
        ),
    ]
    output: Annotated[
        tyro.conf.Positional[str],
        _arg(
            metavar="OUT",
            help="A new folder, or a new file that ends in .safetensors, which A1111 "
            "and ComfyUI open.",
        ),
    ]
    dtype: Annotated[
        Literal["stored", "float32", "float16", "bfloat16"],
        _arg(help="Of what is written; stored is that of IN."),
    ] = "stored"
    lora: Annotated[
        str | None,
        _arg(help="A file of an adapter, or its folder, to be added to the weights."),
    ] = None
    lora_scale: Annotated[float, _arg(help="Multiplies the update of the adapter.")] = (
        1.0
    )
    variant: Annotated[
        str | None, _arg(help="Of the files of weights in a folder, such as fp16.")
    ] = None
    revision: Annotated[
        str | None, _arg(help="A branch, tag or commit of a model on the hub.")
    ] = None
    config: Annotated[
        str | None,
        _arg(
            help="Of a single file: v1, v2, v2-base, turbo, or a folder of diffusers "
            "with its configs."
        ),
    ] = None


def convert_command(arguments: Sequence[str]) -> int:
    """Runs `draftx convert`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    options = parse(ConvertOptions, arguments, "convert")
    output = pathlib.Path(options.output)
    _check(options, output)
    with Busy(f"loading {options.source}"):
        pipeline = _pipeline(options)
    with Busy(f"writing {options.output}"):
        save(pipeline, output)
    with Busy(f"reading {options.output} again"):
        sizes = check_saved(pipeline, output)
    for name, size in sizes.items():
        print(f"{size_text(size):>9}  {name}")
    total = size_text(sum(sizes.values()))
    print(f"the model is in {options.output}: {total}, read again and compared")
    if output.suffix == ".safetensors":
        print(_how_to_load(pipeline), end="")
    return 0


def _check(options: ConvertOptions, output: pathlib.Path) -> None:
    """Raises before a model is loaded for nothing."""
    source = pathlib.Path(options.source)
    is_there = source.exists()
    is_known = options.source in EMBEDDED_MODELS or is_repo_id(options.source)
    if not is_there and not is_known:
        raise ValueError(
            f"`source` must be {', '.join(map(repr, EMBEDDED_MODELS))}, a folder, a "
            "single file, or the hub's name of a model, 'owner/name'; "
            f"{options.source!r} is none."
        )
    check_new_model(output, "source", options.source)
    if options.lora is not None and not pathlib.Path(options.lora).exists():
        raise ValueError(
            "`lora` must be a file of an adapter, or its folder; "
            f"{options.lora!r} does not exist."
        )
    if options.lora is None and options.lora_scale != 1.0:
        raise ValueError(
            "`lora_scale` must be 1 without `lora`, there being nothing to scale; got "
            f"{options.lora_scale}."
        )


def _pipeline(options: ConvertOptions) -> Pipeline:
    pipeline = load(
        options.source,
        dtype=options.dtype,
        revision=options.revision,
        variant=options.variant,
        config=options.config,
    )
    if options.lora is None:
        return pipeline
    return merge_lora(load_lora(pipeline, options.lora, scale=options.lora_scale))


def _how_to_load(pipeline: Pipeline) -> str:
    """What must be said to load a single file, which has no configs."""
    config = published_config(pipeline)
    if config == "v1":
        return ""
    if config is not None:
        return f'draftx loads it with config="{config}"\n'
    return (
        "its configs or its tokenizer are none of the published ones, and a single "
        "file has no place for them: draftx loads it with config= and a folder that "
        "has them\n"
    )
