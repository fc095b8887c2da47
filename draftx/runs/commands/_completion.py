"""What a shell is told, so that it completes commands and their options."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Union

import tyro


SHELLS: Final = ("bash", "zsh", "tcsh")


def print_completion(commands: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Prints a script that completes the command `draftx`; gives the exit code.

    **Arguments:**

    - `commands`: The dataclass of options of each, or a mapping of such.
    - `arguments`: The name of a shell, one of `SHELLS`.
    """
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        print(
            "draftx: `--print-completion` must be followed by the name of a shell, one "
            f"of {', '.join(SHELLS)}; got {' '.join(arguments) or 'none'}.",
            file=sys.stderr,
        )
        return 2
    try:
        tyro.cli(
            _either(commands),
            args=["--tyro-print-completion", arguments[0]],
            prog="draftx",
        )
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _either(commands: Mapping[str, Any]) -> Any:
    """The type of one of some subcommands, which may have subcommands in turn."""
    kinds = []
    for name, options in commands.items():
        if isinstance(options, Mapping):
            inner: Any = tyro.conf.OmitSubcommandPrefixes[_either(options)]
            options = dataclasses.make_dataclass(name, [("command", inner)])
        kinds.append(Annotated[options, tyro.conf.subcommand(name)])
    return Union[tuple(kinds)]  # noqa: UP007
