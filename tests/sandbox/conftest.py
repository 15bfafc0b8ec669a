"""A sandbox for all tests here, and a host to attack."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_host import Host

from trivium.sandbox import Sandbox


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
