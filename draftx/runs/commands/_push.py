"""`draftx push`: a finished run on the Hugging Face Hub."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from .._busy import Busy
from ..training import push
from ._options import parse


_arg = tyro.conf.arg


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Uploads the adapter of a run to the Hugging Face Hub, with its model card, its
    configuration, its curves and its last pictures."""

    run: Annotated[
        tyro.conf.Positional[str], _arg(metavar="run", help="The folder of the run.")
    ]
    repo_id: Annotated[
        str,
        _arg(
            help="Where to, account/name; without an account it is one's own. Made if "
            "it is not there.",
        ),
    ]
    private: Annotated[
        bool, _arg(help="Whether it is made for oneself alone, if it is made.")
    ] = False
    token: Annotated[
        str | None,
        _arg(
            help="With the right to write. None: HF_TOKEN, or that of `hf auth login`.",
        ),
    ] = None


def push_command(arguments: Sequence[str]) -> int:
    """Runs `draftx push`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    options = parse(PushOptions, arguments, "push")
    with Busy(f"uploading {options.run} to {options.repo_id}"):
        address = push(
            options.run, options.repo_id, private=options.private, token=options.token
        )
    print(address)
    return 0
