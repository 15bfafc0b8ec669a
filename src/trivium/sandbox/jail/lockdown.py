"""The layers that each program's processes put on before they read a byte from outside."""

import math
import os
import resource
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import seccomp

DESCRIPTORS_FROM = 10  # the worker's own descriptors lie here and above, so that targets below never collide
DESCRIPTORS_TO = 4096  # and far below this: it holds few, and was started with none


Bounds = list[tuple[int, tuple[int, int]]]


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

    def limits(self, processes_before: int) -> Bounds:
        """Arguments for `setrlimit`; the exact time limits are kept by the worker.

        Args:
            processes_before: what already counts against this user's RLIMIT_NPROC.
        """
        soft = math.ceil(self.cpu_seconds) + 1
        bounds = [
            bounded(resource.RLIMIT_CPU, soft, soft + 2),  # the soft limit's SIGXCPU names the cause
            bounded(resource.RLIMIT_FSIZE, self.file_bytes),
            bounded(resource.RLIMIT_NOFILE, self.descriptors),
            bounded(resource.RLIMIT_NPROC, processes_before + self.threads),  # threads count as processes
        ]
        if sys.platform != "darwin":  # which refuses it
            bounds.append(bounded(resource.RLIMIT_AS, self.memory_bytes))
        return bounds

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
    die_with_parent: Callable[[], int] | None = None
    """Has the kernel kill the caller when the worker ends."""

    def lock(self, descriptors: list[int], limits: Bounds) -> None:
        """Keep only the descriptors, as 0, 1, 2, ...; limit and confine the calling process for good.

        Args:
            descriptors: become 0, 1, ... in this order; every other one is closed.
            limits: from `Request.limits`; computed before the fork, as every page that a child writes to is copied.
        Raises:
            OSError: a layer was refused; the caller must then exit without running anything.
        """
        for kind, bounds in limits:
            resource.setrlimit(kind, bounds)
        if self.die_with_parent is not None:
            self.die_with_parent()
            if os.getppid() != self.parent:  # it has died already
                raise OSError("the worker is gone")
        if self.restrict is not None:
            self.restrict()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target, inheritable=False)
        os.closerange(len(descriptors), DESCRIPTORS_TO)
        if self.filter is not None:
            self.filter.install(os.getpid())


def bounded(kind: int, soft: int, hard: int | None = None) -> tuple[int, tuple[int, int]]:
    """Arguments for `setrlimit` that stay below the present hard limit."""
    _, ceiling = resource.getrlimit(kind)
    hard = soft if hard is None else hard
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    return kind, (soft, hard)


def limit_worker() -> None:
    """The limits that worker and programs share."""
    for name, bound in (("CORE", 0), ("MEMLOCK", 0), ("MSGQUEUE", 0), ("SIGPENDING", 64)):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            resource.setrlimit(*bounded(kind, bound))
