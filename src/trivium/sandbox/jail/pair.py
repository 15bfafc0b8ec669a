"""One program's two processes, from fork to the account of how they ended."""

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from . import checker, program, syscalls
from .clock import ProcessTable
from .lockdown import Bounds, Cage, Request

TICK = 0.05  # seconds between looks at the CPU clocks
MOST_EXTENSION = 3.0  # of the wall limit, on a machine that is too busy to run the program
SPARE = 8  # threads beyond the limit: RLIMIT_NPROC also counts what is not the program's
LOCK_FAILED = 70  # exit status of a child that could not be locked up


class Pair:
    """Program and checker, locked up and waiting for source and tests on sockets that only they hold."""

    def __init__(self, cage: Cage, request: Request, table: ProcessTable, null: int, descriptors: list[int]) -> None:
        """Fork both.

        Args:
            cage: what they put on.
            request: their limits, as long as this machine needs them to be.
            table: knows what they do not tell.
            null: an open /dev/null.
            descriptors: source socket, tests socket, stdout, stderr; closed here.
        Raises:
            OSError: no more processes or memory; nothing is left behind.
        """
        source, tests, output, errors = descriptors
        near, far = socket.socketpair()
        self.request = request
        self.program = self.checker = 0
        self.watched: int | None = None
        self._table = table
        self._started = self._deadline = self._next_look = 0.0
        try:
            limits = request.limits(cage.processes_before)
            self.program = _fork(cage, limits, program.run, [null, output, errors, near.fileno(), source])
            self.checker = _fork(cage, limits, checker.run, [null, null, null, far.fileno(), tests])
            self.watched = _open_pidfd(self.checker)
        except OSError:
            self.discard()
            raise
        finally:
            near.close()
            far.close()
            for descriptor in descriptors:
                os.close(descriptor)

    def start(self) -> None:
        """The clocks run from now on."""
        self._started = time.monotonic()
        self._deadline = self._started + self.request.wall_seconds
        self._next_look = self._started + TICK * 0.9

    @property
    def pause(self) -> float:
        """Seconds until the next `look`, if the checker does not end before."""
        left = max(0.0, self._deadline - time.monotonic())
        return min(left, TICK if self.watched is not None else 0.002)

    def look(self) -> dict[str, Any] | None:
        """The report if the checker has ended or a time limit is over; both processes are then gone."""
        pid, status, usage = os.wait4(self.checker, os.WNOHANG)
        if pid:
            return self._finish("", status, usage)
        now = time.monotonic()
        if now >= self._deadline and not self._extend():
            return self._finish("wall", None, None)
        if now >= self._next_look:  # most programs are over before the first
            self._next_look = now + TICK * 0.9
            if max(_cpu_clock(self.program), _cpu_clock(self.checker)) >= self.request.cpu_seconds:
                return self._finish("cpu", None, None)
            if max(map(self._table.threads, (self.program, self.checker))) > self.request.threads + SPARE:
                return self._finish("threads", None, None)  # where RLIMIT_NPROC does not hold them, as for root
        return None

    def _extend(self) -> bool:
        """Give back the time for which the processes waited for a processor, up to a bound."""
        delay = self._table.delay(self.program) + self._table.delay(self.checker)
        most = self.request.wall_seconds * MOST_EXTENSION
        self._deadline = self._started + self.request.wall_seconds + min(delay, most)
        return time.monotonic() < self._deadline

    def discard(self) -> None:
        """End both processes without a report."""
        for pid in (self.checker, self.program):
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if self.watched is not None:
            os.close(self.watched)

    def _finish(self, cause: str, status: int | None, usage: resource.struct_rusage | None) -> dict[str, Any]:
        program_status, program_usage = None, None
        if usage is None:
            os.kill(self.checker, signal.SIGKILL)
            _, _, usage = os.wait4(self.checker, 0)
        elif status != 0:  # the program may have gone first: how?
            program_status, program_usage = _wait_briefly(self.program, 0.1)
        if program_usage is None:
            os.kill(self.program, signal.SIGKILL)
            _, _, program_usage = os.wait4(self.program, 0)
        if self.watched is not None:
            os.close(self.watched)
        used = (program_usage, usage)
        return {
            "cause": cause,
            "cpu": sum(each.ru_utime + each.ru_stime for each in used),
            "rss": program_usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "program": program_status,
            "checker": status,
        }


def _fork(cage: Cage, limits: Bounds, entry: Callable[[int, int], None], descriptors: list[int]) -> int:
    """A child that locks itself up and runs the entry with its descriptors 3 and 4."""
    pid = syscalls.fork()
    if pid == 0:
        try:
            cage.lock(descriptors, limits)
            entry(3, 4)
        finally:
            os._exit(LOCK_FAILED)
    return pid


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _cpu_clock(pid: int) -> float:
    """CPU seconds of a child so far; the clock's id is the kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)."""
    if not syscalls.SUPPORTED:
        return 0.0
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def _wait_briefly(pid: int, seconds: float) -> tuple[int | None, resource.struct_rusage | None]:
    """Status and usage of a child that is about to end; None for both if it does not."""
    end = time.monotonic() + seconds
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() >= end:
            return None, None
        time.sleep(0.001)
