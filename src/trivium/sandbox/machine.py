"""The interpreter's places on this machine, and the host's own things that a worker's probe must not reach."""

import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .jail.enclosure import Plan
from .jail.probes import Target
from .result import Level

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_CANARIES = "sandbox-probe-"
_SETTLED_SECONDS = 60.0  # a directory this old is locked, if its process lives
_PACKAGES = ("site-packages", "dist-packages")


def plan(level: Level, scratch_bytes: int, target: Target) -> Plan:
    """How a worker of this level is to be locked up."""
    library = sysconfig.get_path("stdlib")
    base_library = os.path.join(sys.base_prefix, "lib")
    paths = dict.fromkeys([library, sysconfig.get_path("platstdlib"), os.path.join(library, "lib-dynload")])
    if level == "jailed":
        places = dict.fromkeys([*_SYSTEM, base_library, *paths])
        readable = [place for place in places if not any(place.startswith(other + "/") for other in places)]
    else:  # Landlock cannot take a directory out of an allowed one, so the packages are left out entry by entry
        places = dict.fromkeys(_SYSTEM) | dict.fromkeys(_entries(library))
        readable = list(places)
    in_tmp = any(os.path.realpath(place).startswith("/tmp/") or place.startswith("/tmp/") for place in readable)
    return Plan(
        level=level,
        readable=tuple(readable),
        hidden=tuple(os.path.join(library, name) for name in _PACKAGES),
        interpreter_file=os.path.realpath(os.__file__),
        paths=tuple(path for path in paths if os.path.isdir(path)),
        scratch="/scratch" if in_tmp else "/tmp",
        scratch_bytes=scratch_bytes,
        scratch_inodes=256,
        target=target,
    )


def _entries(library: str) -> Iterator[str]:
    with os.scandir(library) as entries:
        for entry in entries:
            if entry.name not in _PACKAGES:
                yield entry.path


@contextlib.contextmanager
def targets() -> Iterator[Target]:
    """A file, two listeners and this process, all within reach of an unconfined process of any user."""
    _sweep()
    directory = Path(tempfile.mkdtemp(prefix=_CANARIES))
    alive = _lock(directory)
    name = f"sandbox-probe-{secrets.token_hex(8)}"
    linux = sys.platform.startswith("linux")
    try:
        directory.chmod(0o777)
        canary = directory / "canary"
        canary.write_text("secret")
        canary.chmod(0o666)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
            if linux:
                stream = stack.enter_context(socket.socket(socket.AF_UNIX))
                stream.bind("\0" + name)
                stream.listen(64)
                datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                datagram.bind("\0" + name + ".datagram")
            port = listener.getsockname()[1]
            yield Target(str(canary), port, name if linux else "", os.getpid())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if alive is not None:
            os.close(alive)


def _sweep() -> None:
    """Remove what a process left here that was killed while it started; living ones hold a lock."""
    for directory in Path(tempfile.gettempdir()).glob(_CANARIES + "*"):
        with contextlib.suppress(OSError):
            facts = directory.lstat()
            if facts.st_uid == os.geteuid() and time.time() - facts.st_mtime > _SETTLED_SECONDS:
                lock = _lock(directory)
                if lock is not None:
                    shutil.rmtree(directory, ignore_errors=True)
                    os.close(lock)


def _lock(directory: Path) -> int | None:
    """Hold the directory until the descriptor is closed, or this process dies. None: another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
