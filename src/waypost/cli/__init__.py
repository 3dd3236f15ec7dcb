"""The `waypost` command: words on the command line to calls, results to lines, errors to sentences and exit codes."""

from waypost.cli.command import main

__all__ = ["main"]
