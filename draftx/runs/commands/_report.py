"""`draftx report`: one page about runs."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from ..report import write_report
from ._options import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Writes one HTML page about runs: curves, pictures, figures, configurations.

    Everything is in the page: it can be sent to somebody, and read without a network.
    """

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Folders of runs, finished or not.", metavar="RUN [RUN ...]"
        ),
    ]
    output: Annotated[
        str,
        tyro.conf.arg(aliases=("-o",), help="The page; one that is there is replaced."),
    ] = "report.html"


def report_command(arguments: Sequence[str]) -> int:
    """Runs `draftx report`; gives its exit code.

    **Arguments:**

    - `arguments`: Of the command line.
    """
    options = parse(ReportOptions, arguments, "report")
    path = write_report(options.runs, options.output)
    print(f"the report is in {path}")
    return 0
