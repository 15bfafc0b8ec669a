"""The command line: thin, and quick to answer, since each command imports what it needs when it runs."""

from trivium.cli.program import main

__all__ = ["main"]
