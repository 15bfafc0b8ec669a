"""What a command is called with, and what the program must know about it should it fail."""

import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Invocation:
    """One call of one command."""

    command: str
    arguments: list[str]
    directory: Path | None = None
    """The run directory, once it is known: a crash leaves its traceback there."""
    resumable: bool = False
    """Whether the same command goes on where it stopped."""

    @property
    def resume_command(self) -> str:
        """The same call, without `--force`, which would begin again."""
        kept = [argument for argument in self.arguments if argument != "--force"]
        return shlex.join(["trivium", self.command, *kept])
