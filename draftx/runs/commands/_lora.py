"""`draftx lora`: the table of its subcommands, and arithmetic with adapters."""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import tyro

from ...io import (
    load,
    load_lora,
    mix_lora_files,
    save,
    save_lora,
)
from ...lora import merge_lora, mix_lora
from .._busy import Busy
from ._lora_convert import convert, LoraConvertOptions
from ._lora_info import info, LoraInfoOptions
from ._options import parse
from ._outputs import check_new, check_new_model


_arg = tyro.conf.arg
_MODEL_HELP = (
    "'tiny', a folder, the hub's name or a single file of the model: only needed for "
    "files that name their layers in different ways."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraScaleOptions:
    """Multiplies the update of an adapter: 0 is the base model, 1 what it was."""

    file: Annotated[
        tyro.conf.Positional[str],
        _arg(metavar="FILE", help="A .safetensors file, or its folder."),
    ]
    output: Annotated[
        tyro.conf.Positional[str],
        _arg(metavar="OUT", help="A new file that ends in .safetensors."),
    ]
    scale: Annotated[float, _arg(help="Any finite number.")]
    model: Annotated[str | None, _arg(help=_MODEL_HELP)] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraMixOptions:
    """Mixes adapters into one whose update is the weighted sum of theirs.

    Its rank is the sum of their ranks.
    """

    output: Annotated[
        tyro.conf.Positional[str],
        _arg(metavar="OUT", help="A new file that ends in .safetensors."),
    ]
    files: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        _arg(help="Each with its weight, a.safetensors=0.5; without one it is 1."),
    ]
    model: Annotated[str | None, _arg(help=_MODEL_HELP)] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraMergeOptions:
    """Adds an adapter to the weights of a model, and writes that as diffusers does."""

    file: Annotated[
        tyro.conf.Positional[str],
        _arg(metavar="FILE", help="A .safetensors file, or its folder."),
    ]
    output: Annotated[
        tyro.conf.Positional[str],
        _arg(
            metavar="OUT", help="A new folder, or a new file that ends in .safetensors."
        ),
    ]
    model: Annotated[
        str,
        _arg(
            aliases=("--pretrained-model-name-or-path",),
            help="That it was trained on: 'tiny', a folder, the hub's name, or a "
            "single file, .safetensors or .ckpt.",
        ),
    ]
    lora_scale: Annotated[float, _arg(help="Multiplies the update.")] = 1.0
    variant: Annotated[
        str | None, _arg(help="Of the files of weights, such as fp16.")
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], _arg(help="Of what is written.")
    ] = "float32"


def lora_command(arguments: Sequence[str]) -> int:
    """Runs `draftx lora`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_usage(), end="")
        return 0
    if name not in LORA_COMMANDS:
        print(f"draftx lora: there is no {name!r}.\n\n{_usage()}", file=sys.stderr)
        return 2
    _ACTIONS[name](parse(LORA_COMMANDS[name], arguments[1:], f"lora {name}"))
    return 0


def _usage() -> str:
    width = max(map(len, LORA_COMMANDS))
    lines = [
        f"  {name:<{width}} {(options.__doc__ or '').splitlines()[0]}"
        for name, options in LORA_COMMANDS.items()
    ]
    return "\n".join(["usage: draftx lora COMMAND [--help]", "", *lines, ""])


def _scale(options: LoraScaleOptions) -> None:
    _mix([options.file], [options.scale], options.output, options.model)


def _mix_files(options: LoraMixOptions) -> None:
    if not options.files:
        raise ValueError("`files` must name at least one adapter; got none.")
    given = [_weighted(text) for text in options.files]
    files, weights = [file for file, _ in given], [weight for _, weight in given]
    _mix(files, weights, options.output, options.model)


def _weighted(text: str) -> tuple[str, float]:
    file, equals, number = text.rpartition("=")
    # Names may have the sign, too.
    if not equals or pathlib.Path(text).exists():
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(
            f"`files` must have a finite number after '='; got {text!r}, as in "
            "'a.safetensors=0.5'."
        )
    return file, weight


def _mix(
    files: Sequence[str], weights: Sequence[float], output: str, model: str | None
) -> None:
    if pathlib.Path(output).suffix != ".safetensors":
        raise ValueError(
            f"`output`, which comes first in `mix`, must end in .safetensors; got "
            f"{output!r}."
        )
    _check_there(files)
    # Whoever leaves it out names a file of theirs first.
    check_new(pathlib.Path(output))
    if model is None:
        with Busy(f"writing {output}"):
            mix_lora_files(files, weights, output)
    else:
        with Busy(f"loading {model}"):
            pipeline = load(model)
        with Busy(f"writing {output}"):
            mixed = mix_lora([load_lora(pipeline, file) for file in files], weights)
            save_lora(mixed, output)
    print(f"the adapter is in {output}")


def _check_there(files: Sequence[str]) -> None:
    """Raises before a model is loaded for nothing."""
    for file in files:
        if not pathlib.Path(file).exists():
            raise ValueError(
                f"`file` must be that of an adapter, or its folder; {file!r} does not "
                "exist."
            )


def _merge(options: LoraMergeOptions) -> None:
    output = pathlib.Path(options.output)
    check_new_model(output, "model", options.model)
    _check_there([options.file])
    with Busy(f"loading {options.model}"):
        pipeline = load(options.model, dtype=options.dtype, variant=options.variant)
    with Busy(f"merging, and writing {options.output}"):
        pipeline = load_lora(pipeline, options.file, scale=options.lora_scale)
        save(merge_lora(pipeline), output)
    print(f"the model is in {output}")


LORA_COMMANDS: Final[dict[str, type]] = {
    "info": LoraInfoOptions,
    "convert": LoraConvertOptions,
    "scale": LoraScaleOptions,
    "mix": LoraMixOptions,
    "merge": LoraMergeOptions,
}
_ACTIONS: Final[dict[str, Any]] = {
    "info": info,
    "convert": convert,
    "scale": _scale,
    "mix": _mix_files,
    "merge": _merge,
}
