"""The layers that each program's processes put on before they read a byte from outside."""

import math
import os
import resource
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import seccomp, syscalls

DESCRIPTORS_FROM = 10  # the worker's own descriptors lie here and above, so that targets below never collide


@dataclass(frozen=True)
class Request:
    """One program's limits, as the host sends them with the descriptors."""

    wall_seconds: float
    cpu_seconds: float
    memory_bytes: int
    file_bytes: int
    descriptors: int
    threads: int

    FORMAT = "=ddQQII"
    SIZE = struct.calcsize(FORMAT)

    def pack(self) -> bytes:
        """As fixed-size bytes."""
        return struct.pack(
            self.FORMAT,
            self.wall_seconds,
            self.cpu_seconds,
            self.memory_bytes,
            self.file_bytes,
            self.descriptors,
            self.threads,
        )

    def stretched(self, factor: float) -> "Request":
        """The same limits with times longer by the factor."""
        return replace(self, wall_seconds=self.wall_seconds * factor, cpu_seconds=self.cpu_seconds * factor)

    @classmethod
    def unpack(cls, data: bytes) -> "Request":
        """From `pack`'s bytes."""
        return cls(*struct.unpack(cls.FORMAT, data))


@dataclass(frozen=True)
class Cage:
    """What the worker prepared once for its children."""

    parent: int
    """The worker's pid."""
    restrict: Callable[[], int] | None
    """Puts the caller under the Landlock ruleset."""
    filter: seccomp.ChildFilter | None
    processes_before: int
    """What already counts against this user's RLIMIT_NPROC."""

    def lock(self, descriptors: list[int], request: Request) -> None:
        """Keep only the descriptors, as 0, 1, 2, ...; limit and confine the calling process for good.

        Args:
            descriptors: become 0, 1, ... in this order; every other one is closed.
            request: the program's limits.
        Raises:
            OSError: a layer was refused; the caller must then exit without running anything.
        """
        set_limits(request, self.processes_before)
        if syscalls.SUPPORTED:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self.parent:  # it has died already
                raise OSError("the worker is gone")
        if self.restrict is not None:
            self.restrict()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target, inheritable=False)
        os.closerange(len(descriptors), 1 << 20)
        if self.filter is not None:
            self.filter.install(os.getpid())


def set_limits(request: Request, processes_before: int) -> None:
    """Resource limits of the calling process; the exact time limits are kept by the worker."""
    soft = math.ceil(request.cpu_seconds) + 1
    _lower(resource.RLIMIT_CPU, soft, soft + 2)  # the soft limit's SIGXCPU names the cause
    _lower(resource.RLIMIT_AS, request.memory_bytes)
    _lower(resource.RLIMIT_FSIZE, request.file_bytes)
    _lower(resource.RLIMIT_NOFILE, request.descriptors)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_MEMLOCK, 0)
    _lower(resource.RLIMIT_NPROC, processes_before + request.threads)  # threads count as processes
    if hasattr(resource, "RLIMIT_MSGQUEUE"):
        _lower(resource.RLIMIT_MSGQUEUE, 0)
        _lower(resource.RLIMIT_SIGPENDING, 64)


def _lower(kind: int, soft: int, hard: int | None = None) -> None:
    _, ceiling = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (OSError, ValueError):
        if kind != resource.RLIMIT_AS or os.uname().sysname == "Linux":
            raise  # macOS alone refuses RLIMIT_AS
