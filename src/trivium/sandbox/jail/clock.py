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


class RunDelay:
    """How long processes waited for a processor while they could have run, from the scheduler's own statistics."""

    def __init__(self, proc: int | None) -> None:
        """`proc` is an open directory: a /proc that knows the processes. None: delays are not known, and zero."""
        self._proc = proc

    def seconds(self, pid: int) -> float:
        """The main thread's waiting time so far."""
        if self._proc is None:
            return 0.0
        with contextlib.suppress(OSError, ValueError, IndexError):
            descriptor = os.open(f"{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
            try:
                return int(os.read(descriptor, 100).split()[1]) / 1e9
            finally:
                os.close(descriptor)
        return 0.0
