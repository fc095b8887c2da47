"""Options of the commands that use a model, by themselves or of a run that is there."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import tyro

from ...io import load_lora
from ...pipeline import Pipeline
from ..config import (
    check_finite,
    default_config,
    load_base,
    ModelConfigField,
    ModelField,
    RevisionField,
    RunConfig,
    SamplingSection,
    VariantField,
)
from ..folder import open_run


_Options = TypeVar("_Options")
_arg = tyro.conf.arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractModelOptions:
    """Holds what says which model draws, and how."""

    run: Annotated[
        str | None,
        _arg(
            help="The folder of a run: its model, adapter and options of sampling are "
            "used, as far as nothing else is said. The folder alone may come first, "
            "without `--run`."
        ),
    ] = None
    model: ModelField = "tiny"
    variant: VariantField = None
    revision: RevisionField = None
    model_config: ModelConfigField = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], _arg(help="Of the model.")
    ] = "float32"
    lora: Annotated[
        str | None,
        _arg(
            help="A file of an adapter, or the folder it is in. None: that of the run."
        ),
    ] = None
    seed: Annotated[int, _arg(help="Draws the noise.")] = 0

    sampling: SamplingSection = SamplingSection()


def parse(
    kind: type[_Options],
    arguments: Sequence[str],
    name: str,
    default: _Options | None = None,
) -> _Options:
    """Reads arguments of a command line; what cannot be read ends the program.

    **Arguments:**

    - `kind`: The dataclass of the options.
    - `arguments`: Without the command's name.
    - `name`: Of the command, for its help.
    - `default`: What nothing is said of; `None` is what the class has.

    Raises a `ValueError` for numbers that are not finite.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    options = tyro.cli(kind, args=list(arguments), prog=f"draftx {name}", **given)
    check_finite(options, "")
    return options


def parse_with_run(
    kind: type[_Options],
    arguments: Sequence[str],
    name: str,
    more: Callable[[RunConfig], Mapping[str, Any]] | None = None,
) -> tuple[_Options, RunConfig]:
    """Reads arguments that go above what a run says, or the preset of a model.

    **Arguments:**

    - `kind`: The dataclass of the options, a `AbstractModelOptions`.
    - `arguments`, `name`: As for `parse`.
    - `more`: What other options are by default, for a configuration.

    **Returns:**

    The options, and the configuration of the run or of the model's preset with what
    the options say of the model.

    Raises a `ValueError` for an adapter that does not exist.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--run", *arguments]
    options: Any = parse(kind, arguments, name)
    lora = None
    if options.run is None:
        # Its precision is for training.
        config = default_config(None, options.model)
        config = dataclasses.replace(config, dtype=options.dtype)
    else:
        run = open_run(options.run)
        config, lora = run.config, str(run.folder.lora)
    kept = ("model", "variant", "revision", "model_config", "dtype", "seed", "sampling")
    default: Any = dataclasses.replace(
        options,
        run=options.run,
        lora=lora,
        **{field: getattr(config, field) for field in kept},
        **({} if more is None else more(config)),
    )
    # A second time, now that what is above the others is known.
    options = parse(kind, arguments, name, default)
    if options.lora is not None and not pathlib.Path(options.lora).exists():
        hint = ", which a run writes at its end" if options.run is not None else ""
        raise ValueError(
            f"`lora` must be a file or a folder that exists{hint}; {options.lora!r} "
            "does not."
        )
    return options, dataclasses.replace(
        config, **{field: getattr(options, field) for field in kept}
    )


def load_model(options: AbstractModelOptions) -> Pipeline:
    """Loads the model that options name, with its adapter if they name one.

    **Arguments:**

    - `options`: From `parse_with_run`.
    """
    pipeline = load_base(options)
    if options.lora is None:
        return pipeline
    return load_lora(pipeline, options.lora)
