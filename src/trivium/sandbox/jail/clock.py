"""Time as a program should be charged for it: neither a slow machine nor a busy one may change a verdict."""

import contextlib
import os
import time

REFERENCE_SECONDS = 0.0003
"""What `_work` takes on the machine that limits are stated for: a 2023 server core with CPython 3.11."""
MOST_STRETCH = 4.0


def slowness() -> float:
    """How many times slower than the reference this machine runs Python, between 1 and `MOST_STRETCH`."""
    best = min(_measure() for _ in range(15))
    return min(max(best / REFERENCE_SECONDS, 1.0), MOST_STRETCH)


def _measure() -> float:
    start = time.thread_time()
    _work()
    return time.thread_time() - start


def _work() -> None:
    total, table = 0, {}
    for i in range(4000):
        total = (total * 31 + i) & 0xFFFF
        table[total & 255] = total


class ProcessTable:
    """What the kernel says about children that these processes cannot say themselves."""

    def __init__(self, proc: int | None) -> None:
        """`proc` is an open directory: a /proc that knows the processes. None: nothing is known, and all is zero."""
        self._proc = proc

    def delay(self, pid: int) -> float:
        """Seconds for which the main thread could have run and waited for a processor."""
        fields = self._read(pid, "schedstat").split()
        return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0

    def threads(self, pid: int) -> int:
        """Living threads."""
        fields = self._read(pid, "stat").rpartition(b")")[2].split()
        return int(fields[17]) if len(fields) > 17 else 0

    def _read(self, pid: int, name: str) -> bytes:
        if self._proc is None:
            return b""
        with contextlib.suppress(OSError):
            descriptor = os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                return os.read(descriptor, 4096)
            finally:
                os.close(descriptor)
        return b""
