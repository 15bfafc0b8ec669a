"""What the sandbox's tests share: short limits, and things of the host that no program may touch."""

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from trivium.sandbox import Limits

FAST = Limits(wall_seconds=0.8, cpu_seconds=0.25, memory_bytes=256 << 20)


@dataclass
class Host:
    """What a program could harm."""

    directory: Path
    listener: socket.socket
    abstract: socket.socket
    datagrams: socket.socket
    name: str

    def fill(self, program: str) -> str:
        """The program with its targets named."""
        targets = {
            "CANARY": str(self.directory / "canary"),
            "DIRECTORY": str(self.directory),
            "PORT": str(self.listener.getsockname()[1]),
            "ABSTRACT": self.name,
            "HOST": str(os.getpid()),
        }
        for key, value in targets.items():
            program = program.replace(f"@{key}@", value)
        return program

    def check(self) -> None:
        """Nothing was touched."""
        canary = self.directory / "canary"
        assert [path.name for path in self.directory.iterdir()] == ["canary"]
        assert canary.read_text() == "secret" and canary.stat().st_mode & 0o777 == 0o666
        for end in (self.listener, self.abstract):
            with pytest.raises(BlockingIOError):
                end.accept()
        with pytest.raises(BlockingIOError):
            self.datagrams.recv(10)


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                found += [child, *descendants(child)]
    return found
