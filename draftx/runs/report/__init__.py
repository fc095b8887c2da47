"""One page about runs."""

from ._page import (
    write_report as write_report,
)
