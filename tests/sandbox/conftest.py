"""A sandbox for the module, and things of the host that no program may touch."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trivium.sandbox import Limits, Sandbox

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


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    directory = Path("/tmp") / f"sandbox-tests-{os.getpid()}"
    directory.mkdir()
    directory.chmod(0o777)
    canary = directory / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    name = f"sandbox-tests-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        abstract.bind("\0" + name)
        abstract.listen()
        datagrams.bind("\0" + name + "-datagrams")
        for end in (listener, abstract, datagrams):
            end.setblocking(False)
        yield Host(directory, listener, abstract, datagrams, name)
    canary.unlink()
    directory.rmdir()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as started:
        yield started
