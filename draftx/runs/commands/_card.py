"""`draftx card`: the model card of a run that is there, written again."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from ..folder import open_run, write_card
from ._options import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardOptions:
    """Writes the model card of a run, its `README.md`, from what is in its folder."""

    run: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="RUN", help="The folder of the run."),
    ]


def card_command(arguments: Sequence[str]) -> int:
    """Runs `draftx card`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    run = open_run(parse(CardOptions, arguments, "card").run)
    if not run.folder.lora.is_file():
        raise ValueError(
            f"`run` must have an adapter to write of; {str(run.folder.path)!r} has no "
            f"{run.folder.lora.name}, which a run writes at its end."
        )
    write_card(run.config, run.folder, run)
    print(f"the card is {run.folder.card}")
    return 0
