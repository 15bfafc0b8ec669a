"""Proof of confinement: a child locked up like a program tries what must not succeed and says what did."""

import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from .syscalls import SUPPORTED, syscall


@dataclass(frozen=True)
class Target:
    """Things of the host that the probe must not reach."""

    canary: str
    """A world-readable file with a secret, in a world-writable directory."""
    port: int
    """A TCP port on 127.0.0.1 on which the host listens."""
    abstract: str
    """An abstract Unix socket's name on which the host listens, empty where there are none."""
    host_pid: int


def _read(target: Target) -> None:
    with open(target.canary) as file:
        file.read()


def _append(target: Target) -> None:
    with open(target.canary, "a") as file:
        file.write("x")


def _create(target: Target) -> None:
    with open(target.canary + ".made", "w"):
        pass


def _remove(target: Target) -> None:
    os.unlink(target.canary)


def _change_mode(target: Target) -> None:
    os.chmod(target.canary, 0o600)


def _connect(target: Target) -> None:
    with socket.create_connection(("127.0.0.1", target.port), 1):
        pass


def _connect_abstract(target: Target) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + target.abstract)


def _send_abstract(target: Target) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with a, b:
        a.sendto(b"x", "\0" + target.abstract + ".datagram")


def _fork(target: Target) -> None:
    if os.fork() == 0:
        os._exit(0)


def _execute(target: Target) -> None:
    os.execv("/bin/true", ["true"])


def _signal_parent(target: Target) -> None:
    os.kill(os.getppid(), 0)


def _signal_host(target: Target) -> None:
    os.kill(target.host_pid, 0)


def _signal_all(target: Target) -> None:
    os.kill(-1, signal.SIGCONT)


def _unshare(target: Target) -> None:
    syscall("unshare", 0x10000000)


def _trace(target: Target) -> None:
    attach = 16
    syscall("ptrace", attach, os.getppid(), 0, 0)


def _mount(target: Target) -> None:
    syscall("mount", b"tmpfs", b"/", b"tmpfs", 0, None)


PROBES: dict[str, Callable[[Target], None]] = {
    "read a file": _read,
    "write to a file": _append,
    "create a file": _create,
    "change a file's mode": _change_mode,
    "remove a file": _remove,
    "connect over TCP": _connect,
    "connect to an abstract socket": _connect_abstract,
    "send to an abstract socket": _send_abstract,
    "start a process": _fork,
    "signal its parent": _signal_parent,
    "signal the host": _signal_host,
    "signal everybody": _signal_all,
    "enter a new user namespace": _unshare,
    "trace its parent": _trace,
    "mount a file system": _mount,
    "execute a program": _execute,  # last: what succeeds here never comes back
}


def attempt(target: Target, report: int) -> None:
    """Try everything and write to `report` the names of what got through, one JSON list."""
    through = []
    for name, probe in PROBES.items():
        if not SUPPORTED and probe in (_connect_abstract, _send_abstract, _unshare, _trace, _mount):
            continue
        if probe is _execute:
            os.write(report, json.dumps([*through, name]).encode() + b"\n")
        try:
            probe(target)
        except (OSError, AttributeError):
            continue
        through.append(name)
    os.write(report, json.dumps(through).encode() + b"\n")
