"""The command line: one file a subcommand."""

from ._command import main as main
